//! The hidden states of a proxy, from which the pass over prompts and responses starts. The layers of the frozen prefix
//! then do not run.

use tch::Tensor;

use super::rows::EncodedRow;
use crate::learning::validation_states;
use raisin_base::error::{Context as _, Problem, Result, ensure};
use raisin_corpus::Sequence;
use raisin_lm::proxy::PrefixStates;

/// The cached states of one set of rows.
pub enum CachedStates<'a> {
    Pool(&'a PrefixStates),
    /// For each validation example its states, `[tokens, hidden]`; `None` for an example without a sequence.
    Validation(Vec<Option<Tensor>>),
}

impl<'a> CachedStates<'a> {
    /// The states of the rows of the pool.
    ///
    /// # Errors
    /// The proxy was made from a pool of another size.
    pub fn of_pool(states: &'a PrefixStates, rows: &[EncodedRow]) -> Result<Self> {
        let (found, wanted) = (states.pool_rows(), rows.len());
        if found != wanted {
            let problem = format!("the proxy has hidden states of {found} instructions, and this pool has {wanted}");
            return Err(Problem::new(problem)
                .hint("name the same `instructions` here and in the stage of the proxy, or the base as `model`")
                .into());
        }
        Ok(Self::Pool(states))
    }

    /// The states of the validation examples.
    ///
    /// # Errors
    /// The proxy was made from other examples.
    pub fn of_validation(states: &PrefixStates, rows: &[EncodedRow]) -> Result<Self> {
        let wholes: Vec<Option<&Sequence>> = rows.iter().map(|row| row.whole.as_ref()).collect();
        let mut found = validation_states(states, &wholes)?.into_iter();
        Ok(Self::Validation(wholes.iter().map(|whole| whole.and_then(|_| found.next())).collect()))
    }

    /// The states of some rows, one row after another: `[tokens, hidden]`.
    ///
    /// # Errors
    /// The states of a row belong to other tokens.
    pub fn of(&self, rows: &[&EncodedRow]) -> Result<Tensor> {
        let parts = rows.iter().map(|row| match self {
            Self::Pool(states) => {
                let whole = row.whole.as_ref().with_context(|| format!("row {} has no sequence", row.id))?;
                states.check(row.id, whole)?;
                states.rows(&[row.id])
            }
            Self::Validation(states) => {
                let of_row = states.get(row.id as usize).and_then(Option::as_ref);
                of_row.map(Tensor::shallow_clone).with_context(|| format!("example {} has no states", row.id))
            }
        });
        let parts = parts.collect::<Result<Vec<Tensor>>>()?;
        ensure!(!parts.is_empty(), "no rows of the proxy were requested");
        Ok(Tensor::f_cat(&parts, 0)?)
    }
}
