//! Tests of the stages that make a pool, through the real executables: no row is lost unsaid, and each selected row leads
//! back to the line of its file.

use raisin_tests::Project;
use raisin_tests::python::{run_python, setting};
use serde_json::{Value, json};

/// The stages that the last run executed, according to raisin's own history.
fn ran(project: &Project) -> Vec<String> {
    let rows =
        project.sql("select stage from raisin.actions where run = (select max(run) from raisin.runs) order by stage");
    rows.iter().map(|row| row["stage"].as_str().unwrap_or_default().to_owned()).collect()
}

const MIXED: &str = "\
[stage.general]
kind = \"ingest\"
sources = [{ path = \"general\", format = \"qa\" }]

[stage.code]
kind = \"ingest\"
sources = [{ path = \"code.jsonl\", format = \"qa\" }]

[stage.task]
kind = \"task\"
source = { path = \"train.jsonl\", format = \"qa\" }
validation = 2
test = 2

[stage.mixed]
kind = \"mix\"
size = 12
passes = 2

[stage.mixed.pools]
general = { instructions = \"general\", share = 1 }
code = { instructions = \"code\", share = 2 }

[stage.base]
kind = \"model\"
source = { init = { hidden_size = 16, layers = 2, heads = 2, kv_heads = 1, intermediate_size = 32 } }

[stage.tuned]
kind = \"finetune\"
instructions = \"mixed\"
model = \"base\"
task = \"task\"
select = { method = \"random\" }
steps = 3
batch_size = 4
";

#[test]
fn a_model_is_trained_on_a_mix_and_each_selected_row_is_traced_to_the_line_of_its_file() {
    let project = Project::new();
    let lines = |of: &str, count: usize| -> String {
        let line = |n| json!({"question": format!("{of} {n}"), "answer": "4"}).to_string() + "\n";
        (0..count).map(line).collect()
    };
    std::fs::create_dir(project.path("general")).expect("a folder");
    project.write("general/a.jsonl", &lines("a", 10));
    project.write("general/b.jsonl", &lines("b", 10));
    project.write("code.jsonl", &lines("code", 5));
    project.write("train.jsonl", &lines("task", 4));
    project.write("p.toml", MIXED);
    let answer = project.run(&["build", "p.toml"]);
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    for note in [
        "12 instructions from 2 pools",
        "code: 8 of 5 rows (66.7 %), rows repeated up to 2 times",
        "general: 4 of 20 rows (33.3 %)",
    ] {
        assert!(answer.stderr.contains(note), "{note}: {}", answer.stderr);
    }
    // Each step of the schedule leads to a file and a line, and the text of this line is that of the row.
    let trace = "select t.instruction, s.file, m.line from tuned.selection t join mixed.instructions m on m.id = t.id \
                 join mixed.sources s on s.source = m.source";
    let rows = project.sql(trace);
    assert_eq!(rows.len(), 12);
    for row in rows {
        let (file, line) = (row["file"].as_str().expect("a file"), row["line"].as_u64().expect("a line"));
        let (pool, name) = file.split_once('/').expect("the name of the pool is first");
        let path = if pool == "general" {
            format!("general/{}", name.rsplit('/').next().unwrap_or(name))
        } else {
            name.to_owned()
        };
        let text = std::fs::read_to_string(project.path(&path)).expect("the file");
        let record = text.lines().nth(line as usize - 1).expect("the line");
        let prompt = row["instruction"].as_str().expect("a text").lines().next().unwrap_or_default().to_owned();
        assert!(record.contains(&format!("\"{prompt}\"")), "{row}: {record}");
    }
    let again = project.run(&["build", "p.toml", "--set", "stage.mixed.pools.code.share=3"]);
    assert!(again.stderr.contains("code: 9 of 5 rows (75.0 %)"), "{}", again.stderr);
    let small = project.run(&["build", "p.toml", "--set", "stage.mixed.size=50"]);
    assert_eq!(small.code, 1, "{}", small.stderr);
    assert!(
        small.stderr.contains("the mix needs 33 of the pool `code`, which has 5, and 2 passes give 10"),
        "{}",
        small.stderr
    );
    let misspelt = project.run(&["plan", "p.toml", "--set", "stage.mixed.pools.code.shares=3"]);
    assert!(misspelt.code == 2 && misspelt.stderr.contains("did you mean `share`"), "{}", misspelt.stderr);
    let missing = project.run(&["plan", "p.toml", "--set", "stage.mixed.pools.code.instructions=\"cod\""]);
    assert!(missing.code == 2 && missing.stderr.contains("did you mean `code`"), "{}", missing.stderr);
}

const MARKED: &str = r#"
[stage.good]
kind = "ingest"
sources = [{ path = "good.jsonl" }]

[stage.crawl]
kind = "ingest"
sources = [{ path = "crawl.jsonl" }]

[stage.task]
kind = "task"
source = { path = "train.jsonl", format = "qa" }
validation = 2
test = 2

[stage.raw]
kind = "mix"

[stage.raw.pools]
good = { instructions = "good" }
crawl = { instructions = "crawl" }

[stage.single]
kind = "dedup"
instructions = "raw"
of = "prompt"
threshold = 0.8
prefer = ["good"]

[stage.clean]
kind = "filter"
instructions = "single"
query = """
select q.id, btrim(i.response, ' \n') as response, q.words
from single.quality q join single.instructions i on i.id = q.id
where q.junk is null
"""

[stage.pool]
kind = "mix"
size = 300
pools.all = { instructions = "clean" }

[stage.base]
kind = "model"
source = { init = { hidden_size = 16, layers = 2, heads = 2, kv_heads = 1, intermediate_size = 32 } }

[stage.tuned]
kind = "finetune"
instructions = "pool"
model = "base"
task = "task"
select = { method = "random" }
steps = 5
batch_size = 8
"#;

/// The number in one row of one column.
fn count(project: &Project, query: &str) -> u64 {
    let rows = project.sql(query);
    let row = rows.first().and_then(Value::as_object).expect("a row");
    row.values().next().and_then(Value::as_u64).unwrap_or_else(|| panic!("{query}: {row:?}"))
}

/// 1,000 marked rows in two files: 600 good ones; and 400 of the crawl, of which 100 are near copies of good ones, 100
/// refuse, 50 are cut, 50 are exact copies of each other, and 100 are good but for white space.
fn marked(project: &Project) {
    let words =
        |n: usize| format!("mark{n} one{n} two{n} three{n} four{n} five{n} six{n} seven{n} eight{n} nine{n} ten{n}");
    let line = |prompt: &str, response: &str| json!({"instruction": prompt, "output": response}).to_string() + "\n";
    let good: String = (0..600).map(|n| line(&words(n), &format!("Answer {n}."))).collect();
    let crawl = |n: usize| match n {
        600..700 => line(&format!("{} end", words(n - 600)), "Another answer."),
        700..800 => line(&words(n), "I'm sorry, but I can't help."),
        800..850 => line(&words(n), "It is a very long way to the town. Then one comes to"),
        850..900 => line(&words(850), "A copy."),
        _ => line(&words(n), &format!("  Answer {n}.\n")),
    };
    project.write("good.jsonl", &good);
    project.write("crawl.jsonl", &(600..1000).map(crawl).collect::<String>());
    let task = |n| json!({"question": format!("task {n}"), "answer": "4"}).to_string() + "\n";
    project.write("train.jsonl", &(0..4).map(task).collect::<String>());
}

#[test]
fn marked_rows_are_followed_from_the_line_of_their_file_to_the_selection_and_every_count_adds_up() {
    let project = Project::new();
    marked(&project);
    project.write("p.toml", MARKED);
    let (_, said) = project.done(&["build", "p.toml"]);
    assert!(said.contains("701 of 851 rows stay; the query changes the conversation of 100"), "{said}");

    // Every row of the files is a row of some pool, or counted where it is left out.
    for (file, records, folded) in [("good", 600, 0), ("crawl", 400, 49)] {
        let query = format!("select records, accepted, folded, rejected, filtered from {file}.sources");
        let expected =
            json!({"records": records, "accepted": records - folded, "folded": folded, "rejected": 0, "filtered": 0});
        assert_eq!(project.sql(&query), [expected]);
    }
    assert_eq!(count(&project, "select count(*) from raw.instructions"), 951);
    let dedup = project.sql("select rows, kept, left_out from single.dedup_summary");
    assert_eq!(dedup, [json!({"rows": 951, "kept": 851, "left_out": 100})]);
    let filter = project.sql("select * from clean.filter_summary");
    let expected = json!({"pool_rows": 851, "rows": 701, "distinct_rows": 701, "left_out": 150, "changed": 100});
    assert_eq!(filter, [expected]);
    let spaced = "select count(*) from clean.instructions where response <> btrim(response, E' \\n')";
    assert_eq!(count(&project, spaced), 0, "no line end is left");
    let junk = project
        .sql("select junk, count(*) as n from single.quality where junk is not null group by junk order by junk");
    assert_eq!(junk, [json!({"junk": "refusal", "n": 100}), json!({"junk": "truncated", "n": 50})]);
    assert_eq!(count(&project, "select count(*) from clean.columns c join clean.instructions i on i.id = c.id"), 701);
    assert_eq!(project.sql("select rows, distinct_rows from pool.mix"), [json!({"rows": 300, "distinct_rows": 300})]);

    // Each selected row leads to a line of a file, which has its mark.
    let trace = "select t.instruction, s.file, i.line, i.pool from tuned.selection t join pool.instructions i on i.id = t.id \
                 join pool.sources s on s.source = i.source";
    let rows = project.sql(trace);
    assert_eq!(rows.len(), 40);
    for row in rows {
        let (file, line) = (row["file"].as_str().expect("a file"), row["line"].as_u64().expect("a line"));
        let name = file.rsplit('/').next().expect("a name");
        let text = std::fs::read_to_string(project.path(name)).expect("the file");
        let record = text.lines().nth(line as usize - 1).expect("the line");
        let mark = row["instruction"].as_str().and_then(|text| text.split(' ').next()).expect("a mark");
        assert!(mark.starts_with("mark") && record.contains(&format!("\"{mark} ")), "{row}: {record}");
    }
}

/// What `filter` sets, followed through every stage that makes a pool of a pool, a training and an export.
const SET: &str = r#"
[stage.good]
kind = "ingest"
sources = [{ path = "good.jsonl" }]

[stage.crawl]
kind = "ingest"
sources = [{ path = "crawl.jsonl" }]

[stage.task]
kind = "task"
source = { path = "train.jsonl", format = "qa" }
validation = 2
test = 2

[stage.raw]
kind = "mix"

[stage.raw.pools]
good = { instructions = "good" }
crawl = { instructions = "crawl" }

[stage.named]
kind = "filter"
instructions = "raw"
query = """
select id, case when pool = 'good' then 9 end as weight, case when pool = 'good' then 'curated' else 'web' end as source,
       make_array(pool, 'line ' || line) as tags
from raw.instructions
"""

[stage.single]
kind = "dedup"
instructions = "named"
of = "prompt"
threshold = 0.8

[stage.clean]
kind = "filter"
instructions = "single"
query = "select id from single.instructions where response <> 'A copy.' and not array_has(tags, 'line 7')"

[stage.pool]
kind = "mix"
size = 200

[stage.pool.pools]
first = { instructions = "clean", source = "curated", share = 1 }
second = { instructions = "clean", source = "web", share = 1 }

[stage.base]
kind = "model"
source = { init = { hidden_size = 16, layers = 2, heads = 2, kv_heads = 1, intermediate_size = 32 } }

[stage.tuned]
kind = "finetune"
instructions = "pool"
model = "base"
task = "task"
select = { method = "random" }
steps = 5
batch_size = 8

[stage.files]
kind = "export"
selection = "tuned"
instructions = "pool"
"#;

#[test]
fn weight_source_and_tags_of_a_filter_stay_with_a_row_through_every_stage_and_have_their_effects() {
    let project = Project::new();
    marked(&project);
    project.write("p.toml", SET);
    let (_, said) = project.done(&["build", "p.toml"]);
    assert!(said.contains("951 of 951 rows stay; the query sets `weight`, `source`, `tags`"), "{said}");
    assert!(said.contains("the pool has weights: rows of a larger weight are drawn sooner"), "{said}");

    // The row of each file and line has the values that the query gave, after every stage.
    for stage in ["named", "single", "clean", "pool"] {
        let query = format!(
            "select count(*) as n, count(*) filter (where i.tags[2] = 'line ' || i.line
               and (i.source_name = 'curated') = (s.file like '%good.jsonl')
               and (i.weight = 9 or i.weight is null) and (i.weight is null) = (i.tags[1] = 'crawl')) as fit
             from {stage}.instructions i join {stage}.sources s on s.source = i.source"
        );
        let rows = project.sql(&query);
        assert!(rows[0]["n"].as_u64().is_some_and(|rows| rows >= 200), "{stage}: {rows:?}");
        assert_eq!(rows[0]["n"], rows[0]["fit"], "{stage}");
    }
    assert_eq!(count(&project, "select count(*) from clean.instructions where array_has(tags, 'line 7')"), 0);

    // A source is a group of the mix.
    let groups = "select source_name, count(*) as n from pool.instructions group by 1 order by 1";
    assert_eq!(
        project.sql(groups),
        [json!({"source_name": "curated", "n": 100}), json!({"source_name": "web", "n": 100})]
    );
    let parts = project.sql("select pool, pool_rows, rows from pool.mix order by pool");
    let of_clean = |source: &str| {
        count(&project, &format!("select count(*) from clean.instructions where source_name = '{source}'"))
    };
    assert_eq!(parts[0], json!({"pool": "first", "pool_rows": of_clean("curated"), "rows": 100}));
    assert_eq!(parts[1], json!({"pool": "second", "pool_rows": of_clean("web"), "rows": 100}));

    // Half of the pool has nine tenths of the weight: of 40 draws, 35 in the mean, with a standard deviation of 2.
    let heavy = "select count(*) from tuned.selection t join pool.instructions i on i.id = t.id where i.weight = 9";
    assert!((27..=40).contains(&count(&project, heavy)), "{}", count(&project, heavy));

    // The exported rows have their source and their tags.
    let text = std::fs::read_to_string(project.path("out/p/files/messages.jsonl")).expect("the export");
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(rows.len(), 40);
    let query = "select i.source_name as source, i.tags from files.exported e join pool.instructions i on i.id = e.id \
                 order by e.place";
    let exported: Vec<Value> = rows.iter().map(|row| json!({"source": row["source"], "tags": row["tags"]})).collect();
    assert_eq!(project.sql(query), exported);

    let refused = |from: &str, to: &str| {
        assert!(SET.contains(from), "{from}");
        project.write("p.toml", &SET.replace(from, to));
        project.run(&["build", "p.toml"]).stderr
    };
    let said = refused("source = \"curated\"", "source = \"curatd\"");
    assert!(said.contains("no row of the pool `first` has the source `curatd`"), "{said}");
    assert!(said.contains("did you mean `curated`?"), "{said}");
    let said = refused("make_array(pool, 'line ' || line)", "pool");
    assert!(said.contains("the query gives a `tags` of type Utf8, which is no list of texts"), "{said}");
}

#[test]
fn a_training_selects_by_a_column_that_a_query_gives() {
    let project = Project::new();
    marked(&project);
    let scored = MARKED
        .replace("instructions = \"pool\"\nmodel", "instructions = \"clean\"\nmodel")
        .replace("btrim(i.response, ' \\n') as response, q.words", "i.id * 1.5 as place")
        .replace("method = \"random\"", "method = \"scores\", stage = \"clean\", column = \"place\", top = 40");
    project.write("p.toml", &scored);
    project.done(&["build", "p.toml"]);
    let chosen = "select count(*) from tuned.selection t join clean.columns c on c.id = t.id \
                  where c.place >= (select min(place) from (select place from clean.columns order by place desc limit 40))";
    assert_eq!(count(&project, chosen), 40);
    project.write("p.toml", &scored.replace(", i.id * 1.5 as place", ""));
    let (_, said) = project.refused(&["build", "p.toml"]);
    assert!(said.contains("the stage `clean` has no columns") && said.contains("beside `id`"), "{said}");
    project.write("p.toml", &scored.replace("instructions = \"clean\"\nmodel", "instructions = \"pool\"\nmodel"));
    let (_, said) = project.refused(&["build", "p.toml"]);
    assert!(said.contains("has scores of 701 instructions of another pool; this pool has 300"), "{said}");
}

#[test]
fn a_filter_runs_again_only_if_its_answer_can_change() {
    let project = Project::new();
    marked(&project);
    project.write("p.toml", MARKED);
    project.done(&["build", "p.toml", "--only", "clean"]);
    let edited = |from: &str, to: &str| {
        assert!(MARKED.contains(from), "{from}");
        project.write("p.toml", &MARKED.replace(from, to));
        project.done(&["build", "p.toml", "--only", "clean"]);
        ran(&project)
    };
    assert_eq!(edited("kind = \"filter\"", "kind = \"filter\" # without junk"), Vec::<String>::new());
    assert_eq!(edited("q.junk is null", "q.junk is null and true"), ["clean"]);
    // The stage `single` and its name in the query.
    assert_eq!(edited("single", "unique_rows"), ["clean"]);
    let refused = |from: &str, to: &str| {
        project.write("p.toml", &MARKED.replace(from, to));
        let answer = project.run(&["plan", "p.toml"]);
        assert_eq!(answer.code, 2, "{}", answer.stderr);
        answer.stderr
    };
    let said = refused("select q.id, btrim", "select btrim");
    assert!(said.contains("the answer of the query has no column `id`"), "{said}");
    let said = refused("from single.quality", "from singl.quality");
    assert!(said.contains("did you mean `single`?"), "{said}");
    let said = refused("instructions = \"single\"\nquery", "instructions = \"single\"\nrepeat = true\nquery");
    assert!(said.contains("did you mean `repeats`"), "{said}");
    project.write("p.toml", &MARKED.replace("q.junk is null", "q.jnk is null"));
    let wrong = project.run(&["build", "p.toml", "--only", "clean"]);
    assert!(wrong.code == 1 && wrong.stderr.contains("jnk"), "{}", wrong.stderr);
}

#[test]
#[cfg_attr(not(has_python), ignore = "RAISIN_PYTHON is not set: `just test` sets it")]
fn duckdb_polars_and_datasets_read_every_table() {
    let (pools, all) = (Project::new(), Project::with_pipeline("micro.toml"));
    marked(&pools);
    pools.write("p.toml", SET);
    pools.done(&["build", "p.toml"]);
    all.done(&["build", "micro.toml"]);
    for (project, least) in [(&pools, 20), (&all, 30)] {
        let folder = project.path("cache/artifacts");
        let said = run_python(&setting("RAISIN_PYTHON"), "readers.py", &[&folder]).expect("equal values");
        let files: usize = said.split_whitespace().next().and_then(|count| count.parse().ok()).expect("a count");
        assert!(files >= least, "{said}");
    }
}
