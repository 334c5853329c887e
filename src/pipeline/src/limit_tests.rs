//! Tests of pipeline files that would take long, hold too much memory, or never end.

use std::path::Path;
use std::time::{Duration, Instant};

use super::super::Override;
use super::{GOOD, load_file, load_text, told, write};
use raisin_base::error::{exit_code, render};

/// The error of a pipeline file, which must come at once.
fn refused_at_once(file: &Path) -> String {
    let began = Instant::now();
    let error = load_file(file, &[]).err().expect("a problem");
    assert!(began.elapsed() < Duration::from_secs(1), "{} took {:?}", file.display(), began.elapsed());
    assert_eq!(exit_code(&error), 2);
    render(&error)
}

#[test]
fn a_pipeline_or_an_include_that_is_no_regular_file_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    assert!(std::process::Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
    for (path, what) in
        [(at("fifo").as_path(), "a FIFO"), (Path::new("/dev/zero"), "a device"), (folder.path(), "a folder")]
    {
        let words = refused_at_once(path);
        assert!(words.contains(&format!("it is {what}")), "{words}");
        write(folder.path(), "p.toml", &format!("include = {:?}\n{GOOD}", path.to_str().unwrap()));
        let words = refused_at_once(&at("p.toml"));
        assert!(words.contains("p.toml:1:11: cannot read") && words.contains(&format!("it is {what}")), "{words}");
    }
}

#[test]
fn a_pipeline_file_that_is_too_large_is_refused_with_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.toml");
    std::fs::File::create(&file).and_then(|file| file.set_len(1 << 40)).unwrap();
    assert!(refused_at_once(&file).contains("it is larger than 16777216 bytes, the limit"));
}

#[test]
fn files_that_double_the_includes_with_each_level_are_refused_at_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    for level in 0..26 {
        let next = format!("{}.toml", level + 1);
        write(folder.path(), &format!("{level}.toml"), &format!("include = [{next:?}, {next:?}]\n"));
    }
    write(folder.path(), "26.toml", GOOD);
    let words = refused_at_once(&folder.path().join("0.toml"));
    assert!(words.contains("this is more than the limit of 1000 includes"), "{words}");
    // A diamond is allowed.
    assert!(load_file(&folder.path().join("20.toml"), &[]).is_ok());
}

#[test]
fn a_sweep_with_too_many_variants_is_refused_before_any_is_made() {
    let numbers = |count: usize| format!("{:?}", (0..count).collect::<Vec<_>>());
    let began = Instant::now();
    let sweep = format!("{GOOD}\n[sweep]\n\"pipeline.seed\" = {0}\n\"stage.pool.size\" = {0}\n", numbers(1000));
    let words = told(&sweep, &[]);
    assert!(words.contains("the sweep has 1000000 variants, more than the limit of 10000"), "{words}");
    assert!(words.contains("p.toml:12:1"), "{words}");
    let axis = Override::Sweep(format!("pipeline.seed={}", numbers(100_000)));
    assert!(told(GOOD, &[axis]).contains("the sweep has 100000 variants"));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let stages: String = (0..200).map(|number| format!("[stage.s{number}]\nkind = \"pool\"\n")).collect();
    let words = told(&format!("{stages}[sweep]\n\"pipeline.seed\" = {}\n", numbers(6000)), &[]);
    assert!(
        words.contains("the sweep has 6000 variants of 200 stages, more than the limit of 1000000 stages"),
        "{words}"
    );
    assert_eq!(
        load_text(&format!("{GOOD}\n[sweep]\n\"pipeline.seed\" = {}\n", numbers(300)), &[]).unwrap().variants.len(),
        300
    );
}

#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    for text in ["a = ".to_owned() + &"[".repeat(200_000), "a = ".to_owned() + &"{a=".repeat(200_000)] {
        assert!(told(&text, &[]).contains("this is not TOML"));
    }
    let dotted = format!("{} = 1\n", vec!["a"; 100_000].join("."));
    assert!(told(&dotted, &[]).contains("p.toml:1:"));
    let _ = told(&format!("[{}]\nb = 1\n", vec!["a"; 100_000].join(".")), &[]);
    let _ = load_text(GOOD, &[Override::Set(format!("stage.pool.size={}", "[".repeat(200_000)))]);
    let long = format!("stage.pool.{}", vec!["a"; 50_000].join("."));
    let limit = "the key has 50002 parts between dots, and at most 80 are allowed";
    assert!(told(GOOD, &[Override::Set(format!("{long}=1"))]).contains(limit));
    assert!(told(GOOD, &[Override::Sweep(format!("{long}=[1]"))]).contains(limit));
}
