//! Greedy decoding for many prompts together, with a key-value cache. Prompts and stop conditions are tokens here; the
//! crate `corpus` makes tokens from text.
//!
//! The prompts run through the packed forward pass, without padding. Then the keys and values of each row are written
//! to the cache, left-aligned. In a decoding step, a mask hides the cache entries beyond the end of a row. Finished
//! rows are removed from the cache.

use tch::{Kind as TensorKind, Tensor};

use super::attention::{Rotation, plain};
use super::batch::{Batch, EpisodeSpans};
use super::layout::on;
use super::model::Model;
use super::out_of_memory::{attempt, is_out_of_memory, no_room};
use raisin_base::error::{Problem, Result, ensure};
use raisin_corpus::Sequence;

/// The most prompts that are continued together.
pub(super) const ROWS: usize = 64;

/// The key-value cache of all layers: keys and values `[rows, key-value heads, length, dim]`. The keys of one head are
/// contiguous, so a product over some of the keys reads them without a copy.
struct Cache {
    layers: Vec<[Tensor; 2]>,
    length: i64,
}

/// A continuation that has not ended.
struct Continuation {
    prompt: usize,
    length: i64,
    last: u32,
}

impl Model {
    /// Continues each prompt by at most `max_new_tokens`, always with the most likely token. A continuation ends with
    /// the first of the `stop` tokens, which it includes, or at the end of the model's context.
    pub fn generate(&self, prompts: &[Vec<u32>], max_new_tokens: usize, stop: &[u32]) -> Result<Vec<Vec<u32>>> {
        let context = self.config.max_position_embeddings;
        for (number, prompt) in prompts.iter().enumerate() {
            ensure!(!prompt.is_empty(), "prompt {number} has no tokens");
            if prompt.len() > context {
                return Err(Problem::new(format!(
                    "prompt {number} has {} tokens, more than the model's context of {context}",
                    prompt.len()
                ))
                .into());
            }
        }
        // Prompts of similar length are continued together, so that fewer entries of the cache stay empty.
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|&prompt| (prompts[prompt].len(), prompt));
        let mut continuations = vec![Vec::new(); prompts.len()];
        if max_new_tokens > 0 {
            let mut start = 0;
            while start < order.len() {
                let rows = self.rows_together.get().min(order.len() - start);
                let chosen = &order[start..start + rows];
                let run =
                    || tch::no_grad(|| self.continue_rows(prompts, chosen, max_new_tokens, stop, &mut continuations));
                match attempt(run) {
                    Ok(()) => start += rows,
                    Err(error) if is_out_of_memory(&error) => {
                        let [.., longest] = chosen else { return Err(error) };
                        if rows == 1 {
                            return Err(no_room(prompts[*longest].len() + max_new_tokens, &error));
                        }
                        chosen.iter().for_each(|&prompt| continuations[prompt].clear());
                        let fewer = rows / 2;
                        self.tell(&format!(
                            "there was no memory to continue {rows} prompts together; from now on, {fewer} prompts \
                             are continued together"
                        ));
                        self.rows_together.set(fewer);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(continuations)
    }

    fn continue_rows(
        &self,
        prompts: &[Vec<u32>],
        chosen: &[usize],
        max_new_tokens: usize,
        stop: &[u32],
        continuations: &mut [Vec<u32>],
    ) -> Result<()> {
        let (mut cache, hidden) = self.prefill(prompts, chosen, max_new_tokens)?;
        let mut next = self.likeliest(&hidden)?;
        let mut rows: Vec<Continuation> = chosen
            .iter()
            .map(|&prompt| Continuation { prompt, length: prompts[prompt].len() as i64, last: 0 })
            .collect();
        loop {
            let (mut kept, mut going) = (Vec::new(), Vec::new());
            let before = rows.len();
            for (place, (mut row, token)) in (0..).zip(rows.into_iter().zip(next)) {
                let continuation = &mut continuations[row.prompt];
                continuation.push(token);
                row.last = token;
                let full = continuation.len() == max_new_tokens
                    || row.length as usize + 1 > self.config.max_position_embeddings;
                if !full && !stop.contains(&token) {
                    kept.push(place);
                    going.push(row);
                }
            }
            rows = going;
            if rows.is_empty() {
                return Ok(());
            }
            if rows.len() < before {
                cache.keep(&on(&kept, self.device)?)?;
            }
            next = self.step(&mut rows, &mut cache)?;
        }
    }

    /// Runs the prompts through the model. Returns the filled cache, and the final hidden state of each prompt,
    /// `[rows, hidden]`.
    fn prefill(&self, prompts: &[Vec<u32>], chosen: &[usize], max_new_tokens: usize) -> Result<(Cache, Tensor)> {
        let sequences: Vec<Sequence> = chosen
            .iter()
            .map(|&prompt| Sequence { tokens: prompts[prompt].clone(), supervised: vec![false; prompts[prompt].len()] })
            .collect();
        let batch = Batch::pack(&sequences.iter().collect::<Vec<_>>(), self.device)?;
        let length = (batch.longest() + max_new_tokens).min(self.config.max_position_embeddings) as i64;
        let (rows, heads) = (batch.rows() as i64, self.config.num_key_value_heads);
        let mut places = Vec::with_capacity(batch.tokens() * heads as usize);
        let mut lasts = Vec::with_capacity(batch.rows());
        // Index of each token and head in the cache, seen as [rows * heads * length, dim].
        for (row, &(start, end)) in (0..).zip(batch.row_spans()) {
            for offset in 0..(end - start) as i64 {
                places.extend((0..heads).map(|head| (row * heads + head) * length + offset));
            }
            lasts.push(end as i64 - 1);
        }
        let places = on(&places, self.device)?;
        let mut layers = Vec::with_capacity(self.layers.len());
        let states = self.run(&self.embed(&batch)?, 0, self.layers.len(), &batch, &mut |_, [k, v]| {
            let dim = k.size3()?.2;
            let store = |x: &Tensor| -> Result<Tensor> {
                let mut cached = Tensor::f_zeros([rows * heads * length, dim], (self.compute, self.device))?;
                let _ = cached.f_index_copy_(0, &places, &x.f_reshape([-1, dim])?)?;
                Ok(cached.f_view([rows, heads, length, dim])?)
            };
            layers.push([store(&k)?, store(&v)?]);
            Ok(())
        })?;
        let lasts = on(&lasts, self.device)?;
        Ok((Cache { layers, length }, self.normed(&states.f_index_select(0, &lasts)?)?))
    }

    /// Decodes one more token for every row.
    fn step(&self, rows: &mut [Continuation], cache: &mut Cache) -> Result<Vec<u32>> {
        #[cfg(test)]
        self.check_room(rows.iter().map(|row| row.length as usize + 1).sum())?;
        let tokens: Vec<i64> = rows.iter().map(|row| i64::from(row.last)).collect();
        let positions: Vec<i64> = rows.iter().map(|row| row.length).collect();
        let heads = self.config.num_key_value_heads;
        let places: Vec<i64> = (0..)
            .zip(&positions)
            .flat_map(|(row, position)| (0..heads).map(move |head| (row * heads + head, *position)))
            .map(|(head, position)| head * cache.length + position)
            .collect();
        let on = |values: &[i64]| on(values, self.device);
        let (tokens, places, position) = (on(&tokens)?, on(&places)?, on(&positions)?);
        let count = rows.len() as i64;
        let seen = positions.iter().max().map_or(0, |longest| longest + 1);
        // [rows, seen]: true beyond the end of the row's own tokens
        let beyond = Tensor::f_arange(seen, (TensorKind::Int64, self.device))?
            .f_unsqueeze(0)?
            .f_gt_tensor(&position.f_unsqueeze(1)?)?;
        // [rows, 1, 1, 1, seen], as `plain` takes the mask
        let mask = Tensor::f_zeros([count, seen], (self.compute, self.device))?
            .f_masked_fill(&beyond, f64::NEG_INFINITY)?
            .f_view([count, 1, 1, 1, seen])?;
        let rotation = Rotation::at(&self.config, &position, self.compute)?;
        let mut states =
            Tensor::f_embedding(&self.embedding.value, &tokens, -1, false, false)?.f_to_kind(self.compute)?;
        let episode_spans = EpisodeSpans::default();
        for (layer, [keys, values]) in self.layers.iter().zip(&mut cache.layers) {
            // q is [rows, heads, dim], k and v are [rows, key-value heads, dim]
            let [q, k, v] = layer.project(&states, &self.config, &rotation, &episode_spans)?;
            let dim = k.size3()?.2;
            for (cached, new) in [(&mut *keys, &k), (&mut *values, &v)] {
                let mut cached = cached.f_view([count * heads * cache.length, dim])?;
                let _ = cached.f_index_copy_(0, &places, &new.f_reshape([-1, dim])?)?;
            }
            // [rows, key-value heads, seen, dim]
            let (keys, values) = (keys.f_narrow(2, 0, seen)?, values.f_narrow(2, 0, seen)?);
            let mask = self.windowed(&mask, &position, seen)?;
            let mixed = plain(&q.f_unsqueeze(2)?, &keys, &values, Some(&mask))?;
            states = layer.finish(&states, &mixed.f_reshape([count, -1])?, &self.config, &episode_spans)?;
        }
        for row in rows {
            row.length += 1;
        }
        self.likeliest(&self.normed(&states)?)
    }

    /// Adds the sliding window to the mask: keys that are too far back are hidden too.
    fn windowed(&self, mask: &Tensor, position: &Tensor, seen: i64) -> Result<Tensor> {
        let Some(window) = self.config.sliding_window.filter(|window| *window < seen) else {
            return Ok(mask.shallow_clone());
        };
        let oldest = position.f_sub_scalar(window)?.f_unsqueeze(1)?;
        let before = Tensor::f_arange(seen, (TensorKind::Int64, self.device))?.f_unsqueeze(0)?.f_le_tensor(&oldest)?;
        Ok(mask.f_masked_fill(&before.f_view(mask.size().as_slice())?, f64::NEG_INFINITY)?)
    }

    fn likeliest(&self, hidden: &Tensor) -> Result<Vec<u32>> {
        let ids = Vec::<i64>::try_from(self.logits(hidden)?.f_argmax(-1, false)?)?;
        Ok(ids.into_iter().map(|id| id as u32).collect())
    }
}

impl Cache {
    fn keep(&mut self, rows: &Tensor) -> Result<()> {
        for cached in self.layers.iter_mut().flatten() {
            *cached = cached.f_index_select(0, rows)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tch::Device;

    use super::*;
    use crate::ModelConfig;
    use raisin_base::seed::Seed;

    #[test]
    fn without_memory_fewer_prompts_are_continued_together_with_the_same_result() -> Result<()> {
        let mut config = ModelConfig::llama(30, 16, 2, 4, 2, 32);
        config.initializer_range = 0.5;
        let mut model = Model::init(config, &Seed::new(1), Device::Cpu, TensorKind::Float)?;
        let prompts: Vec<Vec<u32>> =
            (0..9).map(|row| (0..3 + row % 4).map(|place| (row * 7 + place * 5) % 30).collect()).collect();
        let expected = model.generate(&prompts, 8, &[2])?;
        let heard = Arc::new(Mutex::new(Vec::new()));
        let hears = heard.clone();
        model.listen(Arc::new(move |text| hears.lock().expect("one thread").push(text.to_owned())));
        // The memory is enough for all prompts at first, but not for their continuations.
        model.limit_room(Some(60));
        for _ in 0..2 {
            assert_eq!(model.generate(&prompts, 8, &[2])?, expected);
        }
        assert_eq!(
            *heard.lock().expect("one thread"),
            ["there was no memory to continue 9 prompts together; from now on, 4 prompts are continued together"],
        );
        model.limit_room(Some(8));
        let error = model.generate(&prompts, 8, &[2]).expect_err("no memory for a single one");
        assert!(error.to_string().starts_with("there is no memory for a single sequence"), "{error}");
        Ok(())
    }
}
