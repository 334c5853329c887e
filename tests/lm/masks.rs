//! Compares tokens and targets of conversations with transformers, for all chat templates that two Python packages
//! carry, and for conversations of many shapes.

use std::collections::BTreeMap;

use raisin_base::error::Result;
use raisin_corpus::{Codec, Encoded, FindingKind, Instruction, Message};
use serde::Deserialize;
use serde_json::Value;

use raisin_tests::python::{run_python, setting};

#[derive(Deserialize)]
struct MaskCase {
    template: String,
    shape: String,
    messages: Vec<Message>,
    tools: Option<Vec<Value>>,
    /// `None` if the template refuses the conversation.
    tokens: Option<Vec<u32>>,
    /// The indices of the tokens that the assistant writes; `None` if transformers does not tell.
    targets: Option<Vec<usize>>,
    /// The indices of the tokens in texts of the system, of users and of tools.
    others: Vec<usize>,
}

/// How raisin's result compares with that of transformers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum MaskOutcome {
    /// Equal tokens and equal targets.
    Equal,
    /// Equal tokens. transformers does not tell the targets.
    EqualTokens,
    /// Equal tokens. raisin does not train on a turn, and reports it.
    Reported,
    /// A part of the conversation has no place in the template. raisin writes it as text, and reports it.
    AsText,
    /// Both refuse the conversation.
    Refused,
    Wrong,
}

fn is_as_text(encoded: &Encoded) -> bool {
    use FindingKind as Kind;
    let kinds = [Kind::ReasoningAsText, Kind::ToolsAsText, Kind::CallsAsText, Kind::SystemAsText];
    encoded.findings.iter().any(|finding| kinds.contains(&finding.kind))
}

fn compare(case: &MaskCase, encoded: &Encoded) -> MaskOutcome {
    let refused = encoded.findings.iter().any(|finding| finding.kind == FindingKind::Refused);
    if is_as_text(encoded) {
        return if refused { MaskOutcome::Refused } else { MaskOutcome::AsText };
    }
    let (Some(tokens), false) = (&case.tokens, refused) else {
        return if case.tokens.is_none() && refused { MaskOutcome::Refused } else { MaskOutcome::Wrong };
    };
    let reported = encoded.findings.iter().any(|finding| finding.kind.is_unsupervised());
    let Some(sequence) = &encoded.sequence else {
        return if reported && encoded.tokens == tokens.len() { MaskOutcome::Reported } else { MaskOutcome::Wrong };
    };
    let targets: Vec<usize> =
        sequence.supervised.iter().enumerate().filter(|(_, target)| **target).map(|(place, _)| place).collect();
    if sequence.tokens != *tokens || targets.iter().any(|target| case.others.contains(target)) {
        return MaskOutcome::Wrong;
    }
    match &case.targets {
        Some(wanted) if *wanted == targets => MaskOutcome::Equal,
        Some(wanted) if reported && targets.iter().all(|target| wanted.contains(target)) => MaskOutcome::Reported,
        Some(_) => MaskOutcome::Wrong,
        None if reported => MaskOutcome::Reported,
        None => MaskOutcome::EqualTokens,
    }
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn tokens_and_targets_are_those_of_transformers_under_every_template() -> Result<()> {
    use MaskOutcome as Is;
    let folder = tempfile::tempdir()?;
    run_python(&setting("RAISIN_PYTHON"), "template_masks.py", &[folder.path()])?;
    let cases: Vec<MaskCase> = serde_json::from_slice(&std::fs::read(folder.path().join("cases.json"))?)?;
    let mut table: BTreeMap<&str, BTreeMap<MaskOutcome, usize>> = BTreeMap::new();
    let mut wrong = Vec::new();
    for of_template in cases.chunk_by(|one, other| one.template == other.template) {
        let codec = Codec::load(&folder.path().join(&of_template[0].template))?;
        for case in of_template {
            let tools = case.tools.clone().unwrap_or_default();
            let row = Instruction { tools, ..Instruction::new(0, case.messages.clone()) };
            let encoded = codec.instruction(&row, usize::MAX);
            let outcome = compare(case, &encoded);
            *table.entry(&case.shape).or_default().entry(outcome).or_default() += 1;
            if outcome == MaskOutcome::Wrong {
                wrong.push(format!("{}: {}: {}", case.template, case.shape, shown(&codec, case, &encoded)?));
            } else if outcome == MaskOutcome::Reported && std::env::var_os("RAISIN_SHOW").is_some() {
                println!("reported: {}: {}: {:?}", case.template, case.shape, encoded.findings);
            }
        }
    }
    let columns = [Is::Equal, Is::EqualTokens, Is::Reported, Is::AsText, Is::Refused];
    println!("| conversation | {} |", columns.map(|column| format!("{column:?}")).join(" | "));
    for (shape, counts) in &table {
        let counts = columns.map(|column| counts.get(&column).copied().unwrap_or(0).to_string());
        println!("| {shape} | {} |", counts.join(" | "));
    }
    let total = |outcome| table.values().filter_map(|counts| counts.get(&outcome)).sum::<usize>();
    println!("| in all | {} |", columns.map(|column| total(column).to_string()).join(" | "));
    let templates = cases.chunk_by(|one, other| one.template == other.template).count();
    println!("{} conversations under {templates} templates", cases.len());
    assert!(wrong.is_empty(), "{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    assert!(cases.len() > 1500 && total(Is::Equal) > 900, "too few cases: {}", total(Is::Equal));
    Ok(())
}

/// Both chats with their targets in brackets.
fn shown(codec: &Codec, case: &MaskCase, encoded: &Encoded) -> Result<String> {
    let text = |tokens: &[u32], is_target: &dyn Fn(usize) -> bool| -> Result<String> {
        let mut text = String::new();
        let mut start = 0;
        while start < tokens.len() {
            let target = is_target(start);
            let end = (start..tokens.len()).find(|place| is_target(*place) != target).unwrap_or(tokens.len());
            let part = codec.decode_with_special(&tokens[start..end])?;
            text += &if target { format!("⟦{part}⟧") } else { part };
            start = end;
        }
        Ok(text)
    };
    let ours = match &encoded.sequence {
        Some(sequence) => text(&sequence.tokens, &|place| sequence.supervised[place])?,
        None => "no sequence".to_owned(),
    };
    let theirs = match &case.tokens {
        Some(tokens) => text(tokens, &|place| case.targets.as_ref().is_some_and(|targets| targets.contains(&place)))?,
        None => "refused".to_owned(),
    };
    Ok(format!("{:?}\n  raisin:       {ours:?}\n  transformers: {theirs:?}", encoded.findings))
}
