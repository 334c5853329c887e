//! RAISE (state, policy, PPO, episodes) and the choosers of the baselines. The crate uses neither pipelines nor the
//! store nor Parquet. It reaches the model that learns through [`raisin_base::learner`].
//!
//! | module | concern |
//! |---|---|
//! | [`episode`] | the algorithm from end to end: play, credit, update |
//! | [`ppo`] | the formulas of PPO |
//! | [`policy`], [`network`], [`scorer`] | actor and critic |
//! | [`scoring`], [`concentration`] | the policy applied to a state: scores, draws, log-probabilities; on how many candidates |
//! | [`state`] | the candidates, and the parts of the state that change in an episode |
//! | [`sampling`] | Gumbel-top-b draws and their Plackett-Luce probabilities |
//! | [`step_baseline`], [`credit`] | the baseline of a step; the contribution of each draw to a reward |
//! | [`features`], [`posterior`], [`explanation`] | what measured effects say about candidates, and how sure it is |
//! | [`adam`] | the optimizer of actor and critic |
//! | [`rows`], [`save`] | the rows of the tables; policies and training states as files |
//! | [`chooser`], [`baselines`], [`raise`] | all methods of selection, with one trait |
//! | [`clustering`] | PCA, whitening and k-means |

pub mod adam;
pub mod baselines;
pub mod chooser;
pub mod clustering;
pub mod concentration;
pub mod credit;
pub mod episode;
pub mod explanation;
pub mod features;
#[cfg(test)]
mod golden;
pub mod network;
pub mod policy;
pub mod posterior;
pub mod ppo;
pub mod raise;
pub mod rows;
pub mod sampling;
pub mod save;
pub mod scorer;
pub mod scoring;
pub mod state;
pub mod step_baseline;

pub use baselines::CosineTargets;
pub use chooser::{
    CandidateColumns, Chooser, ChooserInputs, GradientProducts, SelectedCandidate, StepContext, StepGradients, chooser,
};
pub use policy::{Conditions, ModelRole, Policy};
pub use raise::Raise;
pub use raisin_settings::SelectionMethod;
pub use raisin_settings::ppo::PpoSettings;
pub use state::Candidates;
