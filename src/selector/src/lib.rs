//! RAISE: state, policy, PPO, episodes; and the baseline choosers. Knows nothing of pipelines, store or Parquet.
//!
//! | module | concern |
//! |---|---|
//! | [`learner`] | the model that learns, as the selector sees it |
//! | [`episode`] | the algorithm from end to end: play, credit, update |
//! | [`ppo`] | PPO's formulas |
//! | [`policy`], [`scoring`], [`network`] | actor and critic; what they make of a state: scores, draws, probabilities |
//! | [`state`] | the fused state: what stays, what changes |
//! | [`sampling`] | Gumbel-top-b draws and their Plackett-Luce probabilities |
//! | [`credit`] | who is credited for a reward |
//! | [`adam`], [`rows`], [`save`] | the optimizer; the tables' rows; policies and training states as files |
//! | [`chooser`], [`baselines`], [`raise`] | every method of selection behind one trait |
//! | [`clustering`] | PCA, whitening and k-means |

pub mod adam;
pub mod baselines;
pub mod chooser;
pub mod clustering;
pub mod credit;
pub mod episode;
#[cfg(test)]
mod golden;
pub mod network;
pub mod policy;
pub mod ppo;
pub mod raise;
pub mod rows;
pub mod sampling;
pub mod save;
pub mod scoring;
pub mod state;

pub use chooser::{CandidateColumns, Chooser, ChooserInputs, SelectedCandidate, StepContext, chooser};
pub use policy::Policy;
pub use raise::Raise;
pub use raisin_base::learner::{Ensemble, Learner, StepReport};
pub use raisin_settings::ppo::PpoSettings;
pub use raisin_settings::{SelectionMethod, Third};
pub use state::Candidates;
