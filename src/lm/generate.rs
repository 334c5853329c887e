//! Greedy continuation, many prompts at once, with a key-value cache.
//!
//! Prompts go through the packed forward pass, so no padding enters the model; each row's keys and values then lie
//! left-aligned in the cache, and a step masks what is beyond a row's end. Rows that have ended are dropped.

use tch::{Kind, Tensor};

use super::attention::{Rotation, plain};
use super::batch::Batch;
use super::model::Model;
use crate::corpus::Sequence;
use crate::error::{Problem, Result, ensure};

/// Rows that are continued together at most.
const ROWS: usize = 64;

/// Keys and values of all layers, `[rows, length, heads, dim]` each.
struct Cache {
    layers: Vec<[Tensor; 2]>,
    length: i64,
}

/// A row under way.
struct Row {
    prompt: usize,
    length: i64,
    last: u32,
}

impl Model {
    /// Continues each prompt by at most `max_new_tokens`, always with the likeliest token. A continuation ends with
    /// (and includes) the first of the `stop` tokens, or where the model's context ends.
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
        // Similar lengths together: less of the cache lies empty.
        let mut order: Vec<usize> = (0..prompts.len()).collect();
        order.sort_by_key(|&prompt| (prompts[prompt].len(), prompt));
        let mut continuations = vec![Vec::new(); prompts.len()];
        if max_new_tokens > 0 {
            tch::no_grad(|| {
                order
                    .chunks(ROWS)
                    .try_for_each(|chunk| self.continue_rows(prompts, chunk, max_new_tokens, stop, &mut continuations))
            })?;
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
        let mut rows: Vec<Row> =
            chosen.iter().map(|&prompt| Row { prompt, length: prompts[prompt].len() as i64, last: 0 }).collect();
        loop {
            let mut kept = Vec::new();
            for (place, (row, token)) in rows.iter_mut().zip(&next).enumerate() {
                let continuation = &mut continuations[row.prompt];
                continuation.push(*token);
                row.last = *token;
                let full = continuation.len() == max_new_tokens
                    || row.length as usize + 1 > self.config.max_position_embeddings;
                if !full && !stop.contains(token) {
                    kept.push(place as i64);
                }
            }
            if kept.is_empty() {
                return Ok(());
            }
            if kept.len() < rows.len() {
                cache.keep(&Tensor::f_from_slice(&kept)?.f_to_device(self.device)?)?;
                let mut place = 0;
                rows.retain(|_| {
                    let keep = kept.binary_search(&place).is_ok();
                    place += 1;
                    keep
                });
            }
            next = self.step(&mut rows, &mut cache)?;
        }
    }

    /// Runs the prompts; the cache they leave, and the final hidden state of each.
    fn prefill(&self, prompts: &[Vec<u32>], chosen: &[usize], max_new_tokens: usize) -> Result<(Cache, Tensor)> {
        let sequences: Vec<Sequence> = chosen
            .iter()
            .map(|&prompt| Sequence { tokens: prompts[prompt].clone(), supervised: vec![false; prompts[prompt].len()] })
            .collect();
        let batch = Batch::pack(&sequences.iter().collect::<Vec<_>>(), self.device)?;
        let length = (batch.longest() + max_new_tokens).min(self.config.max_position_embeddings) as i64;
        let mut places = Vec::with_capacity(batch.tokens());
        let mut lasts = Vec::with_capacity(batch.rows());
        for (row, &(start, end)) in batch.row_spans().iter().enumerate() {
            places.extend((0..(end - start) as i64).map(|offset| row as i64 * length + offset));
            lasts.push(end as i64 - 1);
        }
        let places = Tensor::f_from_slice(&places)?.f_to_device(self.device)?;
        let rows = batch.rows() as i64;
        let mut layers = Vec::with_capacity(self.layers.len());
        let states = self.run(&self.embed(&batch)?, 0, self.layers.len(), &batch, &mut |_, [k, v]| {
            let (_, heads, dim) = k.size3()?;
            let store = |x: &Tensor| -> Result<Tensor> {
                let mut cached = Tensor::f_zeros([rows * length, heads, dim], (self.compute, self.device))?;
                let _ = cached.f_index_copy_(0, &places, x)?;
                Ok(cached.f_view([rows, length, heads, dim])?)
            };
            layers.push([store(&k)?, store(&v)?]);
            Ok(())
        })?;
        let lasts = Tensor::f_from_slice(&lasts)?.f_to_device(self.device)?;
        Ok((Cache { layers, length }, self.normed(&states.f_index_select(0, &lasts)?)?))
    }

    /// One more token for every row.
    fn step(&self, rows: &mut [Row], cache: &mut Cache) -> Result<Vec<u32>> {
        let tokens: Vec<i64> = rows.iter().map(|row| i64::from(row.last)).collect();
        let positions: Vec<i64> = rows.iter().map(|row| row.length).collect();
        let places: Vec<i64> = (0..).zip(&positions).map(|(row, position)| row * cache.length + position).collect();
        let on = |values: &[i64]| -> Result<Tensor> { Ok(Tensor::f_from_slice(values)?.f_to_device(self.device)?) };
        let (tokens, places, position) = (on(&tokens)?, on(&places)?, on(&positions)?);
        let count = rows.len() as i64;
        let seen = positions.iter().max().map_or(0, |longest| longest + 1);
        // [rows, 1, 1, 1, seen]: what lies beyond a row's own end is hidden.
        let beyond = Tensor::f_arange(seen, (Kind::Int64, self.device))?
            .f_unsqueeze(0)?
            .f_gt_tensor(&position.f_unsqueeze(1)?)?;
        let mask = Tensor::f_zeros([count, seen], (self.compute, self.device))?
            .f_masked_fill(&beyond, f64::NEG_INFINITY)?
            .f_view([count, 1, 1, 1, seen])?;
        let rotation = Rotation::at(&self.config, &position, self.compute)?;
        let mut states =
            Tensor::f_embedding(&self.embedding.value, &tokens, -1, false, false)?.f_to_kind(self.compute)?;
        for (layer, [keys, values]) in self.layers.iter().zip(&mut cache.layers) {
            let [q, k, v] = layer.project(&states, &self.config, &rotation, &[])?;
            let (_, heads, dim) = k.size3()?;
            for (cached, new) in [(&mut *keys, &k), (&mut *values, &v)] {
                let _ = cached.f_view([count * cache.length, heads, dim])?.f_index_copy_(0, &places, new)?;
            }
            let upto = |cached: &Tensor| -> Result<Tensor> { Ok(cached.f_narrow(1, 0, seen)?.f_transpose(1, 2)?) };
            let mask = self.windowed(&mask, &position, seen)?;
            let mixed = plain(&q.f_unsqueeze(2)?, &upto(keys)?, &upto(values)?, Some(&mask))?;
            states = layer.finish(&states, &mixed.f_reshape([count, -1])?, &self.config, &[])?;
        }
        for row in rows {
            row.length += 1;
        }
        self.likeliest(&self.normed(&states)?)
    }

    /// With a sliding window, what is too far back is hidden as well.
    fn windowed(&self, mask: &Tensor, position: &Tensor, seen: i64) -> Result<Tensor> {
        let Some(window) = self.config.sliding_window.filter(|window| *window < seen) else {
            return Ok(mask.shallow_clone());
        };
        let oldest = position.f_sub_scalar(window)?.f_unsqueeze(1)?;
        let before = Tensor::f_arange(seen, (Kind::Int64, self.device))?.f_unsqueeze(0)?.f_le_tensor(&oldest)?;
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
