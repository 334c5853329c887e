//! Tortures stages without tensors with inputs that are large for their memory: each stage succeeds or fails with its
//! message, and its process never has much more than its memory.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::world::count;
use raisin_tests::Project;

/// What a process has beside the memory of its stage, in MB: the executable and its libraries, and what a stage fills
/// between two measurements of its memory.
const BESIDE: u64 = 150;

/// The inputs of the stages that are tried.
const INPUTS: &str = r#"
[stage.pool]
kind = "ingest"
sources = [{ path = "small.jsonl", format = "qa" }]
[stage.examples]
kind = "task"
source = { path = "small.jsonl", format = "qa" }
"#;

/// The peak of the memory of the workers of a build in MB, whether the build succeeded, and what it said.
fn watched(project: &Project, arguments: &[&str]) -> (u64, bool, String) {
    let words = project.path("words");
    let file = std::fs::File::create(&words).expect("a file");
    let mut build = project.raisin(arguments).stdout(Stdio::null()).stderr(file).spawn().expect("raisin starts");
    let (mut peak, began) = (0, Instant::now());
    loop {
        peak = peak.max(peak_of_children(&build));
        if let Some(status) = build.try_wait().expect("a child") {
            return (peak, status.success(), std::fs::read_to_string(words).expect("what it said"));
        }
        assert!(began.elapsed() < Duration::from_mins(10), "{arguments:?} does not end");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The highest `VmHWM` of the processes that a process has started, in MB.
fn peak_of_children(parent: &Child) -> u64 {
    let number = |text: &str, name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().trim_end_matches(" kB").parse().ok()
    };
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let texts = processes.filter_map(|entry| std::fs::read_to_string(entry.path().join("status")).ok());
    let children = texts.filter(|text| number(text, "PPid:") == Some(u64::from(parent.id())));
    children.filter_map(|text| number(&text, "VmHWM:")).max().unwrap_or(0) / 1000
}

/// A project with files that are large in different ways: many small records, few records of 1 MB, one array without line
/// breaks, a Parquet file of equal long texts (which takes little space), and a record without an end.
fn large(size: usize) -> Project {
    let project = Project::new();
    let long = "word ".repeat(200_000);
    let record = |number: usize, text: &str| {
        format!("{{\"question\":\"question {number} {text}\",\"answer\":\"answer {number}\"}}")
    };
    let small: Vec<String> = (0..size * 3000).map(|number| record(number, &"text ".repeat(20))).collect();
    project.write("small.jsonl", &small.join("\n"));
    let records: Vec<String> = (0..size).map(|number| record(number, &long)).collect();
    project.write("large.jsonl", &(small[..200].join("\n") + "\n" + &records.join("\n")));
    project.write("array.json", &format!("[{},{}]", small[..200].join(","), records.join(",")));
    project.write("endless.jsonl", &(small[0].clone() + "\n{\"question\": \"" + &long.repeat(size / 2)));
    project.write("p.toml", INPUTS);
    project.done(&["build", "p.toml"]);
    let bomb = format!(
        "select repeat('word ', 200000) as question, cast(id as text) as answer from pool.instructions where id < {} \
         union all select concat('short ', id), cast(id as text) from pool.instructions where id < 900",
        size * 3
    );
    project.done(&["sql", &bomb, "--output", "bomb.parquet", "--format", "parquet"]);
    project
}

#[test]
fn a_stage_with_little_memory_succeeds_or_says_so_and_never_takes_much_more() {
    let project = large(count(20, 200));
    let kinds: [(&str, &str); 14] = [
        (
            "small records",
            "kind = \"ingest\"\nsources = [{ path = \"small.jsonl\", format = \"qa\" }]\nmax_rejected = 1.0",
        ),
        (
            "large records",
            "kind = \"ingest\"\nsources = [{ path = \"large.jsonl\", format = \"qa\" }]\nmax_rejected = 1.0",
        ),
        (
            "kept records",
            "kind = \"ingest\"\nsources = [{ path = \"large.jsonl\" }]\nmax_length = 2000000\nmax_rejected = 1.0",
        ),
        ("an array", "kind = \"ingest\"\nsources = [{ path = \"array.json\", format = \"qa\" }]\nmax_rejected = 1.0"),
        (
            "an endless record",
            "kind = \"ingest\"\nsources = [{ path = \"endless.jsonl\", format = \"qa\" }]\nmax_rejected = 1.0",
        ),
        ("a bomb", "kind = \"ingest\"\nsources = [{ path = \"bomb.parquet\", format = \"qa\" }]\nmax_rejected = 1.0"),
        ("a task", "kind = \"task\"\nsource = { path = \"small.jsonl\", format = \"qa\" }\nmax_rejected = 1.0"),
        (
            "a task of a bomb",
            "kind = \"task\"\nsource = { path = \"bomb.parquet\", format = \"qa\" }\nmax_rejected = 1.0",
        ),
        ("synthetic", "kind = \"generate\"\nsize = 4000"),
        ("overlap", "kind = \"overlap\"\ninstructions = \"pool\"\ntask = \"examples\"\nngram = 3"),
        ("report", "kind = \"report\"\nof = [\"pool\"]"),
        (
            "sort",
            "kind = \"sql\"\nof = [\"pool\"]\nquery = \"select prompt from pool.instructions order by prompt desc\"",
        ),
        (
            "groups",
            "kind = \"sql\"\nof = [\"pool\"]\nquery = \"select prompt, count(*) as n from pool.instructions group by prompt\"",
        ),
        (
            "cross join",
            "kind = \"sql\"\nof = [\"pool\"]\nquery = \"select count(distinct a.prompt || b.prompt) as n from \
             pool.instructions a cross join (select prompt from pool.instructions limit 30) b\"",
        ),
    ];
    let (mut succeeded, mut refused, mut worst) = (0, 0, 0);
    for (what, stage) in kinds {
        let mut enough = false;
        for memory in [5, 100, 250, 500].into_iter().take(count(2, 4)) {
            let limit = format!("resources = {{ memory = \"{memory}MB\" }}");
            // Another parameter would be another action; `--force` runs the stage although the artifact is there.
            project.write("p.toml", &format!("{INPUTS}[stage.q]\n{stage}\n{limit}\n"));
            let (peak, done, said) = watched(&project, &["build", "p.toml", "--force", "q", "--only", "q"]);
            assert!(peak <= memory + BESIDE, "{what} with {memory} MB: the peak is {peak} MB");
            assert!(done || !enough, "{what} fails with {memory} MB, and succeeded with less");
            enough = done;
            worst = worst.max(peak.saturating_sub(memory));
            if done {
                succeeded += 1;
                continue;
            }
            refused += 1;
            let message = format!("stage `q` needs more than its memory of {memory}");
            assert!(said.contains(&message), "{what} with {memory} MB: {said}");
        }
    }
    assert!(refused > 0 && succeeded > 0, "{refused} failed, {succeeded} succeeded");
    println!("{succeeded} stages succeeded and {refused} said so; at most {worst} MB beside their memory");
}
