//! Runs a stage of kind `mix`: makes one pool from several pools. quota.rs decides how much of each, draw.rs which rows.

mod draw;
mod quota;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray, UInt32Array, UInt64Array, new_null_array};
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;
use rayon::prelude::*;

use raisin_base::error::{Context as _, Problem, Result, anyhow, nearest};
use raisin_contract::{Context, Progress};
use raisin_corpus::intake::{counted, grouped};
use raisin_corpus::set::{SET, read_source_names, read_weights, set_columns, set_type};
use raisin_corpus::{Codec, Instruction, Message, for_each_part};
use raisin_kinds::mix::{MixUnit, Parameters};
use raisin_table::{self as table, WriteTable as _, with_column};

use quota::{Supply, Whole, whole_numbers};

/// The columns of an instruction, without the columns that only some kinds write.
const COLUMNS: [&str; 11] =
    ["id", "system", "prompt", "response", "messages", "tools", "rejected", "source", "line", "duplicates", "label"];

/// A pool of the mix: its folder, and the amount of each row in the unit of the mix.
struct SourcePool<'a> {
    name: &'a str,
    folder: &'a Path,
    amounts: Vec<u64>,
    /// If the mix takes only rows of one source: the place of each of these rows. `amounts` and `weights` are those of these
    /// rows.
    places: Option<Vec<usize>>,
    weights: Option<Vec<f64>>,
    /// The number of rows of the whole pool.
    rows: usize,
}

impl<'a> SourcePool<'a> {
    fn new(name: &'a str, folder: &'a Path, source: Option<&str>, amounts: Vec<u64>) -> Result<Self> {
        let (rows, weights) = (amounts.len(), read_weights(folder)?);
        let pool = Self { name, folder, amounts, places: None, weights, rows };
        let Some(source) = source else { return Ok(pool) };
        let names = read_source_names(folder)?;
        let is_of = |name: Option<&str>| name == Some(source);
        let places: Vec<usize> =
            (0..).zip(names.iter().flatten()).filter(|(_, name)| is_of(*name)).map(|(place, _)| place).collect();
        if places.is_empty() {
            return Err(no_source(name, source, names.as_ref()).into());
        }
        let weights = pool.weights.map(|all| places.iter().map(|place| all[*place]).collect());
        let amounts = places.iter().map(|place| pool.amounts[*place]).collect();
        Ok(Self { amounts, weights, places: Some(places), ..pool })
    }

    /// How often the mix has each row of the whole pool.
    fn of_all(&self, copies: Vec<u32>) -> Vec<u32> {
        let Some(places) = &self.places else { return copies };
        let mut all = vec![0; self.rows];
        places.iter().zip(copies).for_each(|(place, copies)| all[*place] = copies);
        all
    }
}

/// The problem of a pool without a row of the source that the mix asks for.
fn no_source(pool: &str, source: &str, names: Option<&StringArray>) -> Problem {
    let problem = Problem::new(format!("no row of the pool `{pool}` has the source `{source}`"));
    let known: BTreeSet<&str> = names.iter().flat_map(|names| names.iter()).flatten().collect();
    match nearest(source, known.iter().copied()) {
        Some(near) => problem.hint(format!("did you mean `{near}`?")),
        None if known.is_empty() => {
            problem.hint("a `filter` names sources: select id, 'code' as source from ...; files have no such name")
        }
        None => problem.hint(format!("there are {}", known.into_iter().collect::<Vec<_>>().join(", "))),
    }
}

/// What the mix has of a pool.
struct DrawnPart {
    /// How often the mix has each row of which [`SourcePool`] has the amount.
    copies: Vec<u32>,
    wanted: f64,
}

pub fn run(parameters: Parameters, context: &Context) -> Result<()> {
    let amounts = Amounts::new(&parameters, context)?;
    let pools = parameters.pools.iter().map(|(name, part)| {
        let folder = context.input(&format!("/pools/{name}/instructions"))?;
        context.progress(Progress { phase: format!("counting {name}"), unit: "rows".into(), ..Progress::default() });
        SourcePool::new(name, folder, part.source.as_deref(), amounts.of(folder)?)
    });
    let pools = pools.collect::<Result<Vec<_>>>()?;
    let parts = parts(&parameters, &pools, context)?;
    let rows: u64 = parts.iter().flat_map(|part| &part.copies).map(|copies| u64::from(*copies)).sum();
    if rows == 0 {
        return Err(Problem::new("the mix has no row")
            .hint("the pools are empty, or `size` is smaller than their first rows: raise `size`")
            .into());
    }
    u32::try_from(rows).map_err(|_| anyhow!("{rows} rows are more than a table of instructions holds"))?;
    let sources = write_instructions(&pools, &parts, rows, context)?;
    context.write_table("sources", &sources)?;
    let summary = summary(&pools, &parts, parameters.unit)?;
    context.write_table("mix", &summary)?;
    let without: usize = pools.iter().flat_map(|pool| &pool.amounts).filter(|amount| **amount == 0).count();
    if without > 0 {
        let (rows, unit) = (counted(without as u64, "row"), parameters.unit.name());
        context.note(format!(
            "{rows} of the pools have no {unit} (a chat template can refuse a row): they count nothing in the mix"
        ));
    }
    notes(&pools, &parts, parameters.unit).into_iter().for_each(|note| context.note(note));
    Ok(())
}

/// Measures rows in the unit of the mix.
enum Amounts {
    Rows,
    Characters,
    Tokens(Box<Codec>),
}

impl Amounts {
    fn new(parameters: &Parameters, context: &Context) -> Result<Self> {
        Ok(match parameters.unit {
            MixUnit::Rows => Self::Rows,
            MixUnit::Characters => Self::Characters,
            MixUnit::Tokens => {
                let codec = Codec::load(context.input("/model")?)?;
                codec.default_note().into_iter().for_each(|note| context.note(note));
                Self::Tokens(Box::new(codec))
            }
        })
    }

    /// The amount of each row of a pool.
    fn of(&self, folder: &Path) -> Result<Vec<u64>> {
        let characters = |row: &Instruction| row.messages.iter().map(Message::characters).sum::<usize>() as u64;
        Ok(match self {
            Self::Rows => vec![1; usize::try_from(table::rows(&folder.join("instructions.parquet"))?)?],
            Self::Characters => {
                let mut amounts = Vec::new();
                for_each_part(folder, |part| {
                    amounts.par_extend(part.par_iter().map(characters));
                    Ok(())
                })?;
                amounts
            }
            Self::Tokens(codec) => {
                let mut amounts = Vec::new();
                for_each_part(folder, |part| {
                    let rows = codec.instructions(&part, usize::MAX);
                    amounts.extend(rows.iter().map(|row| row.tokens as u64));
                    Ok(())
                })?;
                amounts
            }
        })
    }
}

fn parts(parameters: &Parameters, pools: &[SourcePool], context: &Context) -> Result<Vec<DrawnPart>> {
    let supplies: Vec<Supply> = pools
        .iter()
        .zip(parameters.pools.values())
        .map(|(pool, part)| Supply {
            name: pool.name.to_owned(),
            available: pool.amounts.iter().sum(),
            share: part.share,
            take: part.take,
        })
        .collect();
    let whole = Whole { size: parameters.size, temperature: parameters.temperature, passes: parameters.passes };
    let quotas = whole.quotas(&supplies).with_context(|| format!("in stage `{}`", context.stage()))?;
    let counts = whole_numbers(&quotas);
    let part = |((pool, wanted), count): ((&SourcePool, &f64), &u64)| {
        // The rows of a pool depend on its name and not on the other pools.
        let seed = context.seed().at("mix").at(pool.name);
        let copies = match parameters.unit {
            MixUnit::Rows => draw::by_count(pool.amounts.len(), *count, pool.weights.as_deref(), &seed),
            MixUnit::Characters | MixUnit::Tokens => {
                draw::by_amount(&pool.amounts, *wanted, parameters.passes, pool.weights.as_deref(), &seed)
            }
        };
        DrawnPart { copies, wanted: *wanted }
    };
    Ok(pools.iter().zip(&quotas).zip(&counts).map(part).collect())
}

/// Writes the table `instructions` of the mix, in parts. Returns the table `sources`.
fn write_instructions(pools: &[SourcePool], parts: &[DrawnPart], total: u64, context: &Context) -> Result<RecordBatch> {
    let (mut writer, mut written, mut files) = (None, 0, 0);
    let mut sources = Vec::new();
    // The mix has a column that a `filter` can set if one of its pools has it.
    let set = pools.iter().map(|pool| set_columns(pool.folder)).collect::<Result<Vec<_>>>()?;
    let set_by_any: Vec<&str> = SET.into_iter().filter(|name| set.iter().flatten().any(|of| of == name)).collect();
    for ((pool, part), set) in pools.iter().zip(parts).zip(&set) {
        let of_pool = table::read(&pool.folder.join("sources.parquet"))?;
        let copies = pool.of_all(part.copies.clone());
        let mut copies = copies.iter();
        let columns: Vec<&str> = COLUMNS.iter().chain(set).copied().collect();
        for rows in table::batches_of(&pool.folder.join("instructions.parquet"), &columns)? {
            let rows = rows?;
            let drawn: UInt32Array = (0..)
                .zip(copies.by_ref().take(rows.num_rows()))
                .flat_map(|(row, copies)| (0..*copies).map(move |_| row))
                .collect();
            let mixed = mixed(&take_record_batch(&rows, &drawn)?, pool.name, files, written)?;
            let mixed = with_set_columns(mixed, &set_by_any)?;
            written += mixed.num_rows() as u32;
            let writer = match &mut writer {
                Some(writer) => writer,
                none => none.insert(context.table_writer("instructions", mixed.schema())?),
            };
            writer.write(&mixed)?;
            context.progress(Progress {
                phase: format!("mixing {}", pool.name),
                done: u64::from(written),
                total,
                unit: "rows".into(),
                ..Progress::default()
            });
        }
        sources.push(renumbered(&of_pool, pool.name, files)?);
        files += of_pool.num_rows() as u32;
    }
    writer.ok_or_else(|| anyhow!("a mix needs a row"))?.close()?;
    together(&sources)
}

/// Drawn rows of a pool as rows of the mix: `first` is the id of the first one, and `files` the number of files of the
/// pools before.
fn mixed(drawn: &RecordBatch, pool: &str, files: u32, first: u32) -> Result<RecordBatch> {
    let ids = table::column::<UInt32Array>(drawn, "id")?.clone();
    let old: &UInt32Array = table::column(drawn, "source")?;
    let sources = UInt32Array::from_iter_values(old.values().iter().map(|source| source + files));
    let numbers = UInt32Array::from_iter_values(first..first + drawn.num_rows() as u32);
    let names = StringArray::from_iter_values((0..drawn.num_rows()).map(|_| pool));
    let columns: [(&str, ArrayRef); 4] = [
        ("source", Arc::new(sources)),
        ("id", Arc::new(numbers)),
        ("pool", Arc::new(names)),
        ("pool_id", Arc::new(ids)),
    ];
    columns.iter().try_fold(drawn.clone(), |rows, (name, column)| with_column(&rows, name, column))
}

/// The rows with these columns of [`SET`] at the end, null if the rows lack one.
fn with_set_columns(mut rows: RecordBatch, names: &[&str]) -> Result<RecordBatch> {
    for name in names {
        let column = match rows.schema().index_of(name) {
            Ok(place) => rows.remove_column(place),
            Err(_) => new_null_array(&set_type(name), rows.num_rows()),
        };
        rows = with_column(&rows, name, &column)?;
    }
    Ok(rows)
}

/// The table `sources` of a pool, with the numbers that its files have in the mix, and the name of the pool before the
/// name of each file: files of two pools may have the same name.
fn renumbered(sources: &RecordBatch, pool: &str, first: u32) -> Result<RecordBatch> {
    let numbers: &UInt32Array = table::column(sources, "source")?;
    let numbers: ArrayRef =
        Arc::new(UInt32Array::from_iter_values(numbers.values().iter().map(|number| number + first)));
    let files: &StringArray = table::column(sources, "file")?;
    let files = StringArray::from_iter_values(files.iter().map(|file| format!("{pool}/{}", file.unwrap_or_default())));
    with_column(&with_column(sources, "source", &numbers)?, "file", &(Arc::new(files) as ArrayRef))
}

fn together(batches: &[RecordBatch]) -> Result<RecordBatch> {
    let schema = batches.first().ok_or_else(|| anyhow!("a mix needs a pool"))?.schema();
    Ok(concat_batches(&schema, batches)?)
}

/// The amount that the mix has of a pool.
fn amount(pool: &SourcePool, part: &DrawnPart) -> u64 {
    pool.amounts.iter().zip(&part.copies).map(|(amount, copies)| amount * u64::from(*copies)).sum()
}

/// The table `mix`.
fn summary(pools: &[SourcePool], parts: &[DrawnPart], unit: MixUnit) -> Result<RecordBatch> {
    let both = || pools.iter().zip(parts);
    let whole: u64 = both().map(|(pool, part)| amount(pool, part)).sum();
    let share = |(pool, part)| amount(pool, part) as f64 / whole.max(1) as f64;
    let numbers = |of: &dyn Fn(&SourcePool, &DrawnPart) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(both().map(|(pool, part)| of(pool, part))))
    };
    table::batch(vec![
        ("pool", Arc::new(StringArray::from_iter_values(pools.iter().map(|pool| pool.name))) as ArrayRef),
        ("available", numbers(&|pool, _| pool.amounts.iter().sum())),
        ("wanted", Arc::new(Float64Array::from_iter_values(parts.iter().map(|part| part.wanted)))),
        ("amount", numbers(&amount)),
        ("share", Arc::new(Float64Array::from_iter_values(both().map(share)))),
        ("unit", Arc::new(StringArray::from_iter_values(pools.iter().map(|_| unit.name())))),
        ("pool_rows", numbers(&|pool, _| pool.amounts.len() as u64)),
        ("rows", numbers(&|_, part| part.copies.iter().map(|copies| u64::from(*copies)).sum())),
        ("distinct_rows", numbers(&|_, part| part.copies.iter().filter(|copies| **copies > 0).count() as u64)),
        ("most_copies", numbers(&|_, part| part.copies.iter().copied().max().unwrap_or_default().into())),
    ])
}

/// What a person sees: the rows of the mix, and the part of each pool.
fn notes(pools: &[SourcePool], parts: &[DrawnPart], unit: MixUnit) -> Vec<String> {
    let whole: u64 = pools.iter().zip(parts).map(|(pool, part)| amount(pool, part)).sum();
    let rows: u64 = parts.iter().flat_map(|part| &part.copies).map(|copies| u64::from(*copies)).sum();
    let mut notes = vec![match unit {
        MixUnit::Rows => format!("{} from {}", counted(rows, "instruction"), counted(pools.len() as u64, "pool")),
        _ => {
            let (rows, whole) = (counted(rows, "instruction"), grouped(whole));
            format!("{rows} with {whole} {} from {}", unit.name(), counted(pools.len() as u64, "pool"))
        }
    }];
    for (pool, part) in pools.iter().zip(parts) {
        let amount = amount(pool, part);
        let share = 100.0 * amount as f64 / whole.max(1) as f64;
        let available = grouped(pool.amounts.iter().sum());
        let mut note = format!("{}: {} of {available} {} ({share:.1} %)", pool.name, grouped(amount), unit.name());
        if let Some(most) = part.copies.iter().copied().max().filter(|most| *most > 1) {
            note += &format!(", rows repeated up to {most} times");
        }
        notes.push(note);
    }
    notes
}

#[cfg(test)]
mod tests;
