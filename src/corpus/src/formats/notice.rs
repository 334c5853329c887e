//! What a reader changed or left out in a record that it accepted, and why it left out a whole record.

/// A change that a reader made to a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    TrailingTurns,
    UntrainedTurns,
    PromptTurns,
    EmptyTurns,
    WeightIgnored,
    OtherTurnsWeighted,
    Thoughts,
    SystemsJoined,
    RejectedFolded,
}

impl Notice {
    pub const ALL: [Self; 9] = [
        Self::TrailingTurns,
        Self::UntrainedTurns,
        Self::PromptTurns,
        Self::EmptyTurns,
        Self::WeightIgnored,
        Self::OtherTurnsWeighted,
        Self::Thoughts,
        Self::SystemsJoined,
        Self::RejectedFolded,
    ];

    /// The name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::TrailingTurns => "trailing turns",
            Self::UntrainedTurns => "untrained turns",
            Self::PromptTurns => "prompt turns",
            Self::EmptyTurns => "empty turns",
            Self::WeightIgnored => "weight ignored",
            Self::OtherTurnsWeighted => "other turns weighted",
            Self::Thoughts => "thoughts",
            Self::SystemsJoined => "systems joined",
            Self::RejectedFolded => "rejected folded",
        }
    }

    /// The sentence for a note.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::TrailingTurns => "the turns after the last trained response are left out",
            Self::UntrainedTurns => "responses of weight 0 stay in the conversation, and nothing is trained on them",
            Self::PromptTurns => "the responses within the prompt are not trained on",
            Self::EmptyTurns => "empty responses within the conversation are not trained on",
            Self::WeightIgnored => "weights other than 0 and 1 count as 1",
            Self::OtherTurnsWeighted => "a weight of another turn than the assistant's has no effect",
            Self::Thoughts => "the text in `<think>` is taken as the thoughts of the assistant",
            Self::SystemsJoined => "successive system texts are joined into one",
            Self::RejectedFolded => "copies that differ only in their rejected response are folded",
        }
    }
}

/// A set of notices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notices(u16);

impl Notices {
    pub fn add(&mut self, notice: Notice) {
        self.0 |= 1 << notice as u16;
    }

    pub fn contains(self, notice: Notice) -> bool {
        self.0 & (1 << notice as u16) != 0
    }
}

/// Why a record that can be read is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// The file labels the response as bad.
    Label,
    /// The record, or each of its responses, has the weight 0.
    Weight,
}

impl Filter {
    pub const ALL: [Self; 2] = [Self::Label, Self::Weight];

    pub fn name(self) -> &'static str {
        match self {
            Self::Label => "label = false",
            Self::Weight => "weight = 0",
        }
    }

    /// What a user can do to keep such records.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Label => "fields = { label = \"\" } keeps the records with label = false",
            Self::Weight => {
                "fields = { weight = \"\" } keeps the records with weight = 0, except those whose responses all have it"
            }
        }
    }
}

/// Why a record gives no item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordRefusal {
    /// The record is wrong: the reason.
    Rejected(String),
    /// The file excludes the record.
    Filtered(Filter),
}

impl From<String> for RecordRefusal {
    fn from(reason: String) -> Self {
        Self::Rejected(reason)
    }
}

impl From<&str> for RecordRefusal {
    fn from(reason: &str) -> Self {
        Self::Rejected(reason.to_owned())
    }
}
