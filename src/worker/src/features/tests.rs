//! Tests of the kind `features`: its tables, interrupted passes, passes with too little memory.

use super::*;
use crate::fixture::{ROWS, TensorFixture};
use arrow_array::{FixedSizeListArray, UInt32Array};
use raisin_corpus::artifact::{PoolRow, examples_batch, instructions_batch};
use raisin_corpus::message::conversation;
use raisin_corpus::{Codec, Example, Instruction, Message};
use raisin_table::column;

const INPUTS: [(&str, &str); 3] = [("/instructions", "pool"), ("/model", "model"), ("/task", "task")];

fn parameters() -> Result<Parameters> {
    let value = json!({"instructions": "pool", "model": "model", "task": "task", "batch_tokens": 60});
    Ok(serde_json::from_value(value)?)
}

/// The rows of the pool as tokens.
fn encoded(store: &TensorFixture, context: &Context) -> Result<Vec<EncodedRow>> {
    let codec = Codec::load(&store.artifact("model"))?;
    let rows = RowEncoder { codec: &codec, max_tokens: parameters()?.max_tokens, unconditional: true };
    let mut encoding = EncodingReport::new(parameters()?.sequence_limit());
    rows.instructions(&read_instructions(&store.artifact("pool"))?, context, &mut encoding)
}

#[test]
fn every_row_is_described_once_in_order_and_a_missing_value_has_a_reason() -> Result<()> {
    let store = TensorFixture::new()?;
    let context = store.context("features", "run", &INPUTS, &[])?;
    run(parameters()?, &context)?;
    context.check_outputs()?;
    let rows = store.table("run", "features")?;
    let ids: &UInt32Array = column(&rows, "id")?;
    assert_eq!(ids.values()[..], (0..ROWS as u32).collect::<Vec<_>>()[..]);
    let tokens: &UInt32Array = column(&rows, "response_tokens")?;
    // `answer ` and its end-of-turn token, and one letter more a row.
    assert_eq!(tokens.values()[..3], [8, 9, 10]);
    let (conditional, alone): (&Float32Array, &Float32Array) =
        (column(&rows, "logp_conditional")?, column(&rows, "logp_unconditional")?);
    for row in 0..ROWS - 1 {
        // A model with small random weights is close to uniform over its 260 tokens.
        for sum in [conditional.value(row), alone.value(row)] {
            assert!((sum / tokens.value(row) as f32 + 260f32.ln()).abs() < 0.3, "row {row}: {sum}");
        }
    }
    let missing: &StringArray = column(&rows, "missing")?;
    assert_eq!(missing.null_count(), ROWS - 1);
    assert_eq!(
        missing.value(ROWS - 1),
        "rows.jsonl, line 12: no response token is left within 1024 tokens: the row has 1222 tokens"
    );
    assert!(tokens.is_null(ROWS - 1), "the number of tokens is not 0, but unknown");
    assert!(conditional.is_null(ROWS - 1) && rows.column_by_name("embedding").expect("there").is_null(ROWS - 1));
    assert_eq!(store.table("run", "validation_features")?.num_rows(), 3);
    Ok(())
}

#[test]
fn embeddings_are_means_over_the_tokens_of_the_row_or_of_its_responses() -> Result<()> {
    let store = TensorFixture::new()?;
    let folder = store.artifact("model");
    let (model, codec) = (Model::load(&folder, Device::Cpu, TensorKind::Float)?, Codec::load(&folder)?);
    let instruction = &read_instructions(&store.artifact("pool"))?[4];
    let sequence = codec.instruction(instruction, 512).sequence.expect("a response");
    let hidden = no_grad(|| model.hidden(&Batch::pack(&[&sequence], Device::Cpu)?))?;
    let targets = (0i64..).zip(&sequence.supervised).filter(|(_, target)| **target).map(|(token, _)| token);
    let responses = hidden.index_select(0, &Tensor::from_slice(&targets.collect::<Vec<_>>()));
    assert!(responses.size()[0] == 12 && hidden.size()[0] > 12, "{:?} of {:?}", responses.size(), hidden.size());
    for (name, embedding, hidden) in
        [("whole", EmbeddedTokens::Whole, hidden), ("responses", EmbeddedTokens::Responses, responses)]
    {
        let context = store.context("features", name, &INPUTS, &[])?;
        run(Parameters { embedding, ..parameters()? }, &context)?;
        let rows = store.table(name, "features")?;
        let places = Tensor::arange(hidden.size()[0], (TensorKind::Float, Device::Cpu)) + 1.0;
        let weights = &places / places.sum(TensorKind::Float);
        let expected = [hidden.mean_dim(0, false, TensorKind::Float), weights.unsqueeze(0).matmul(&hidden).squeeze()];
        for (column_name, expected) in ["embedding", "weighted_embedding"].into_iter().zip(expected) {
            let vectors: &FixedSizeListArray = column(&rows, column_name)?;
            let vector = vectors.value(4);
            let vector: &Float32Array = vector.as_any().downcast_ref().expect("f32");
            let found = Tensor::from_slice(vector.values());
            assert!(found.allclose(&expected, 1e-4, 1e-5, false), "{name}: {column_name}");
        }
    }
    Ok(())
}

#[test]
fn both_log_probabilities_score_the_same_tokens_in_cut_rows_and_rows_of_several_turns() -> Result<()> {
    let store = TensorFixture::new()?;
    let turns = |rest: &str| {
        let mut messages = conversation(None, "one", Some("first answer"));
        messages.extend(conversation(None, "two", Some(&format!("second answer{rest}"))));
        messages
    };
    let rows = [
        turns(""),
        turns(&" and on".repeat(20)),
        conversation(None, &"a long prompt ".repeat(3), Some("an answer, cut short")),
    ];
    let rows: Vec<PoolRow> = (1..).zip(rows).map(|(hash, messages)| PoolRow::new(messages, 0, hash)).collect();
    table::write(&store.artifact("pool").join("instructions.parquet"), &instructions_batch(&rows)?)?;
    let context = store.context("features", "run", &INPUTS, &[])?;
    run(Parameters { max_tokens: 60, ..parameters()? }, &context)?;
    let rows = store.table("run", "features")?;
    let (tokens, alone_tokens): (&UInt32Array, &UInt32Array) =
        (column(&rows, "response_tokens")?, column(&rows, "unconditional_tokens")?);
    assert_eq!(tokens, alone_tokens);
    assert_eq!(tokens.value(0), 13 + 14, "both answers and their ends");
    // log p(y) is the sum over the tokens of the responses that are left after the cut.
    let folder = store.artifact("model");
    let (model, codec) = (Model::load(&folder, Device::Cpu, TensorKind::Float)?, Codec::load(&folder)?);
    let instructions = read_instructions(&store.artifact("pool"))?;
    let sums: &Float32Array = column(&rows, "logp_unconditional")?;
    for (row, instruction) in instructions.iter().enumerate() {
        let mut messages = Vec::new();
        for message in instruction.messages.iter().filter(|message| message.is_assistant()) {
            messages.extend(conversation(None, "", Some(&message.content)));
        }
        let alone = codec.instruction(&Instruction { messages, ..instruction.clone() }, 512).sequence.expect("one");
        let log_probs = no_grad(|| -> Result<Vec<f32>> {
            let batch = Batch::pack(&[&alone], Device::Cpu)?;
            Ok(Vec::try_from(model.token_log_probs(&model.hidden(&batch)?, &batch)?)?)
        })?;
        let expected: f32 = log_probs[..tokens.value(row) as usize].iter().sum();
        assert!((sums.value(row) - expected).abs() < 1e-2, "row {row}: {} for {expected}", sums.value(row));
    }
    Ok(())
}

#[test]
fn only_the_response_of_a_validation_example_is_scored_and_all_its_turns_are_read() -> Result<()> {
    let store = TensorFixture::new()?;
    let example = |messages: Vec<Message>| Example::open(0, messages, "so");
    let last = conversation(None, "and?", None);
    let history = [conversation(None, "a cat", Some("a long answer")), last.clone()].concat();
    let examples = [example(history), Example { id: 1, ..example(last) }];
    table::write(&store.artifact("task").join("validation.parquet"), &examples_batch(&examples)?)?;
    let context = store.context("features", "run", &INPUTS, &[])?;
    run(parameters()?, &context)?;
    let rows = store.table("run", "validation_features")?;
    let numbers =
        |name: &str| Ok::<_, raisin_base::error::Error>(column::<UInt32Array>(&rows, name)?.values().to_vec());
    // `so` and its end-of-turn token.
    assert_eq!((numbers("response_tokens")?, numbers("unconditional_tokens")?), (vec![3, 3], vec![3, 3]));
    let history = "<|user|>a cat<|end|><|assistant|>a long answer<|end|>";
    let codec = Codec::load(&store.artifact("model"))?;
    let prompts = numbers("prompt_tokens")?;
    assert_eq!(prompts[0] as usize, prompts[1] as usize + codec.encode(history)?.len());
    Ok(())
}

#[test]
fn rows_longer_than_the_context_are_an_error_before_the_first_forward_pass() -> Result<()> {
    let store = TensorFixture::new()?;
    store.shorten_context(20)?;
    let context = store.context("features", "run", &INPUTS, &[])?;
    let said = raisin_base::error::render(&run(parameters()?, &context).expect_err("too long"));
    assert!(said.contains("max_tokens is 1024") && said.contains("the model's context of 20"), "{said}");
    assert!(store.written("run")?.is_empty());
    Ok(())
}

#[test]
fn an_interrupted_pass_ends_with_the_same_bytes() -> Result<()> {
    let store = TensorFixture::new()?;
    let context = store.context("features", "undisturbed", &INPUTS, &[])?;
    run(parameters()?, &context)?;

    let context = store.context("features", "killed", &INPUTS, &[])?;
    let folder = store.artifact("model");
    let model = Model::load(&folder, Device::Cpu, TensorKind::Float)?;
    let parameters = parameters()?;
    // A part after every batch; the last one is lost with the process.
    let pass = FeaturePass { interval: Duration::ZERO, ..FeaturePass::new(&context, &model, &parameters) };
    pass.write("features", "features", &encoded(&store, &context)?, None)?;
    let (_, parts) = open_parts(&context, "features", 0)?;
    assert!(parts.len() > 2);
    let path = context.work()?.join("features-0.parts");
    let file = std::fs::OpenOptions::new().write(true).open(&path)?;
    file.set_len(file.metadata()?.len() - 1)?;
    let context = store.context("features", "killed", &INPUTS, &[])?;
    run(parameters, &context)?;
    assert_eq!(store.written("undisturbed")?, store.written("killed")?);
    Ok(())
}

#[test]
fn damaged_parts_are_computed_again_and_give_the_same_bytes() -> Result<()> {
    let store = TensorFixture::new()?;
    let context = store.context("features", "run", &INPUTS, &[])?;
    let folder = store.artifact("model");
    let model = Model::load(&folder, Device::Cpu, TensorKind::Float)?;
    let parameters_of_pass = parameters()?;
    let pass = FeaturePass { interval: Duration::ZERO, ..FeaturePass::new(&context, &model, &parameters_of_pass) };
    pass.write("features", "features", &encoded(&store, &context)?, None)?;
    run(parameters()?, &context)?;
    // The few examples are one batch, which is not saved.
    std::fs::remove_file(context.work()?.join("validation-0.parts"))?;
    store.run_on_damaged_work("features", "run", &INPUTS, 25, |context| run(parameters()?, context))
}

#[test]
fn an_interrupted_pass_with_halved_batches_ends_with_the_same_bytes() -> Result<()> {
    let store = TensorFixture::new()?;
    let folder = store.artifact("model");
    let mut model = Model::load(&folder, Device::Cpu, TensorKind::Float)?;
    let parameters = parameters()?;
    let context = store.context("features", "halved", &INPUTS, &[])?;
    model.limit_room(Some(40));
    let pass = FeaturePass { interval: Duration::ZERO, ..FeaturePass::new(&context, &model, &parameters) };
    let encoded = encoded(&store, &context)?;
    pass.write("features", "features", &encoded, None)?;
    let undisturbed = store.table("halved", "features")?;
    let fits = pass.fits.get();
    assert!(fits < parameters.batch_tokens);
    let path = context.work()?.join("features-0.parts");
    let file = std::fs::OpenOptions::new().write(true).open(&path)?;
    file.set_len(file.metadata()?.len() - 1)?;

    // Memory is free again, but the pass keeps the smaller batches.
    model.limit_room(None);
    let pass = FeaturePass { interval: Duration::from_secs(1000), ..FeaturePass::new(&context, &model, &parameters) };
    pass.write("features", "features", &encoded, None)?;
    assert_eq!(store.table("halved", "features")?, undisturbed);
    assert_eq!(pass.fits.get(), fits);
    Ok(())
}

#[test]
fn blocks_give_the_features_of_the_whole_and_go_on_after_a_kill() -> Result<()> {
    let store = TensorFixture::new()?;
    let context = store.context("features", "whole", &INPUTS, &[])?;
    run(parameters()?, &context)?;
    let model = Model::load(&store.artifact("model"), Device::Cpu, TensorKind::Float)?;
    let parameters = parameters()?;
    let interval = Duration::from_secs(1000);
    let write = |folder: &str| -> Result<()> {
        let context = store.context("features", folder, &INPUTS, &[])?;
        let new = FeaturePass::new(&context, &model, &parameters);
        let pass = FeaturePass { interval, block: 5, ..new };
        assert_eq!(pass.write("features", "features", &encoded(&store, &context)?, None)?, 1);
        Ok(())
    };
    write("blocks")?;
    let (whole, blocks) = (values(&store, "whole", "features")?, values(&store, "blocks", "features")?);
    assert_eq!(whole.len(), blocks.len());
    assert!(whole.iter().zip(&blocks).all(|(whole, block)| (whole - block).abs() < 1e-5));
    let bytes = store.written("blocks")?;
    // The first two of three blocks are saved. Without the second, the third is computed with it.
    let context = store.context("features", "blocks", &INPUTS, &[])?;
    let saved = |block: usize| Ok::<_, raisin_base::error::Error>(open_parts(&context, "features", block)?.1.len());
    assert_eq!((saved(0)?, saved(1)?, saved(2)?), (1, 1, 0));
    std::fs::remove_file(context.work()?.join("features-1.parts"))?;
    write("blocks")?;
    assert!(store.written("blocks")? == bytes, "another table");
    Ok(())
}

#[test]
fn in_id_order_gives_the_table_of_all_rows_sorted_by_id() -> Result<()> {
    use arrow_select::concat::concat_batches;
    use arrow_select::take::take_record_batch;
    let store = TensorFixture::new()?;
    let context = store.context("features", "run", &INPUTS, &[])?;
    run(parameters()?, &context)?;
    let rows = store.table("run", "features")?;
    let parts = [rows.slice(7, ROWS - 7), rows.slice(3, 4), rows.slice(0, 3)];
    let all = concat_batches(&rows.schema(), &parts)?;
    let ids: &UInt32Array = column(&all, "id")?;
    let mut positions: Vec<u32> = (0..ROWS as u32).collect();
    positions.sort_by_key(|&position| ids.value(position as usize));
    let sorted = take_record_batch(&all, &UInt32Array::from(positions))?;
    let folder = tempfile::tempdir()?;
    table::write(&folder.path().join("one.parquet"), &in_id_order(&parts)?)?;
    table::write(&folder.path().join("other.parquet"), &sorted)?;
    let bytes = |name: &str| std::fs::read(folder.path().join(name));
    assert_eq!(bytes("one.parquet")?, bytes("other.parquet")?);
    Ok(())
}

/// Makes the artifact `proxy` from the fixture: one of two layers is frozen.
fn make_proxy(store: &TensorFixture) -> Result<()> {
    let inputs = [("/source/prefix", "model"), ("/source/instructions", "pool"), ("/source/task", "task")];
    let context = store.context("model", "making", &inputs, &[])?;
    let source = json!({"prefix": "model", "train_layers": 1, "instructions": "pool", "task": "task"});
    crate::model::run(serde_json::from_value(json!({"source": source}))?, &context)?;
    store.keep("making", "proxy")
}

/// The numbers of a table `features`, with 0 for null.
fn values(store: &TensorFixture, folder: &str, name: &str) -> Result<Vec<f32>> {
    let rows = store.table(folder, name)?;
    let mut all = Vec::new();
    for name in ["logp_conditional", "logp_unconditional"] {
        all.extend(column::<Float32Array>(&rows, name)?.iter().map(Option::unwrap_or_default));
    }
    for name in ["embedding", "weighted_embedding"] {
        all.extend(crate::tables::vectors(&rows, name)?.0);
    }
    Ok(all)
}

#[test]
fn features_on_a_proxy_equal_those_of_its_base_and_cost_less() -> Result<()> {
    let store = TensorFixture::new()?;
    make_proxy(&store)?;
    let mut summaries = Vec::new();
    for model in ["model", "proxy"] {
        let mut inputs = INPUTS;
        inputs[1] = ("/model", model);
        let context = store.context("features", &format!("run-{model}"), &inputs, &[])?;
        run(parameters()?, &context)?;
        context.check_outputs()?;
        let summary: serde_json::Value =
            serde_json::from_slice(&store.written(&format!("run-{model}"))?["summary.json"])?;
        summaries.push(summary);
    }
    for table in ["features", "validation_features"] {
        let (base, proxy) = (values(&store, "run-model", table)?, values(&store, "run-proxy", table)?);
        assert_eq!(base.len(), proxy.len());
        for (base, proxy) in base.iter().zip(&proxy) {
            assert!((base - proxy).abs() < 1e-4, "{table}: {base} is not {proxy}");
        }
    }
    let [base, proxy] = &summaries[..] else { panic!("two summaries") };
    assert_eq!(base["tokens"], proxy["tokens"]);
    // The pass over prompts and responses saves the frozen layer. The pass over the responses alone runs it.
    let model = Model::load(&store.artifact("model"), Device::Cpu, TensorKind::Float)?;
    let frozen = model.flops_per_token(false) - model.flops_per_token_from(1, false);
    let context = store.context("features", "counted", &INPUTS, &[])?;
    let of_pool = encoded(&store, &context)?.iter().flat_map(|row| &row.whole).map(|it| it.tokens.len()).sum::<usize>();
    let codec = Codec::load(&store.artifact("model"))?;
    let task = read_task(&store.artifact("task"))?;
    let of_example = |example: &Example| codec.example(example, 1024).sequence.map_or(0, |it| it.tokens.len());
    let whole = of_pool + task.validation.iter().map(of_example).sum::<usize>();
    let saved = base["flops"].as_f64().expect("a number") - proxy["flops"].as_f64().expect("a number");
    assert!((saved - whole as f64 * frozen).abs() < 1.0, "{saved} is not {whole} x {frozen}");
    Ok(())
}

#[test]
fn a_proxy_of_another_pool_or_another_task_is_refused() -> Result<()> {
    let store = TensorFixture::new()?;
    make_proxy(&store)?;
    let mut inputs = INPUTS;
    inputs[1] = ("/model", "proxy");
    let said = || -> Result<String> {
        let context = store.context("features", "run", &inputs, &[])?;
        Ok(raisin_base::error::render(&run(parameters()?, &context).expect_err("another proxy")))
    };
    let path = store.artifact("task").join("validation.parquet");
    let examples = table::read(&path)?;
    table::write(&path, &examples.slice(0, 2))?;
    assert!(said()?.contains("belong to other validation examples"), "{}", said()?);
    table::write(&path, &examples)?;
    let path = store.artifact("pool").join("instructions.parquet");
    let rows = table::read(&path)?;
    table::write(&path, &rows.slice(0, ROWS - 1))?;
    assert!(said()?.contains("the proxy has hidden states of 12 instructions, and this pool has 11"), "{}", said()?);
    let others: Vec<PoolRow> = (0..ROWS as u64)
        .map(|row| PoolRow::new(conversation(None, &format!("another {row}"), Some("so")), 0, row + 1))
        .collect();
    table::write(&path, &instructions_batch(&others)?)?;
    assert!(said()?.contains("the cached states of pool row"), "{}", said()?);
    Ok(())
}

#[test]
fn without_the_second_pass_log_p_y_is_null_the_state_lacks_it_and_ifd_refuses() -> Result<()> {
    let store = TensorFixture::new()?;
    let context = store.context("features", "both", &INPUTS, &[])?;
    run(parameters()?, &context)?;
    let context = store.context("features", "run", &INPUTS, &[])?;
    run(Parameters { unconditional: false, ..parameters()? }, &context)?;
    context.check_outputs()?;
    let rows = store.table("run", "features")?;
    for name in ["logp_unconditional", "unconditional_tokens"] {
        assert_eq!(rows.column_by_name(name).expect("a column").null_count(), ROWS, "{name}");
    }
    let sums: &Float32Array = column(&rows, "logp_conditional")?;
    assert_eq!(sums, column::<Float32Array>(&store.table("both", "features")?, "logp_conditional")?);
    let missing: &StringArray = column(&rows, "missing")?;
    assert_eq!(missing.null_count(), ROWS - 1, "the second pass is not missing, because nobody asked for it");
    let flops = |folder: &str| -> Result<f64> {
        let summary: serde_json::Value = serde_json::from_slice(&store.written(folder)?["summary.json"])?;
        Ok(summary["flops"].as_f64().expect("a number"))
    };
    assert!(flops("run")? < flops("both")?);

    store.keep("run", "described")?;
    std::fs::remove_dir_all(store.artifact("clusters"))?;
    let context = store.context("clusters", "grouping", &[("/features", "described")], &[])?;
    let clusters = json!({"features": "described", "dimensions": 2, "clusters": 2});
    crate::clusters::run(serde_json::from_value(clusters)?, &context)?;
    context.check_outputs()?;
    let constants: serde_json::Value = serde_json::from_slice(&store.written("grouping")?["constants.json"])?;
    let expected = [
        "difficulty.prompt_tokens",
        "difficulty.response_tokens",
        "difficulty.logp_conditional",
        "difficulty.logp_conditional_per_token",
        "semantic.00",
        "semantic.01",
    ];
    let columns: Vec<String> = serde_json::from_value(constants["columns"].clone())?;
    let without_target: Vec<&String> = columns.iter().filter(|name| !name.starts_with("target.")).collect();
    assert_eq!(without_target, expected);
    assert_eq!(store.table("grouping", "clusters")?.num_rows(), ROWS - 1);

    store.keep("grouping", "clusters")?;
    let inputs = [("/instructions", "pool"), ("/model", "model"), ("/task", "task"), ("/features", "clusters")];
    let tuned = |method: &str| -> Result<()> {
        let context = store.context("finetune", method, &inputs, &[])?;
        let parameters = json!({
            "instructions": "pool", "model": "model", "task": "task", "features": "clusters",
            "select": {"method": method}, "steps": 2, "batch_size": 2,
        });
        crate::finetune::run(serde_json::from_value(parameters)?, &context)
    };
    tuned("sspl")?;
    let said = raisin_base::error::render(&tuned("ifd").expect_err("no log p(y)"));
    assert!(said.contains("`ifd` needs log p(y)"), "{said}");
    assert!(said.ends_with("hint: set `unconditional = true` in the features stage"), "{said}");
    Ok(())
}
