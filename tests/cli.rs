//! The commands, told as stories through the real `raisin` in a folder of their own.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

struct Project {
    folder: tempfile::TempDir,
}

impl Project {
    fn new(pipeline: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("p.toml"), pipeline).unwrap();
        Self { folder }
    }

    fn raisin(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_raisin"))
            .args(arguments)
            .current_dir(self.folder.path())
            .env_remove("RAISIN_CACHE")
            .env_remove("RAISIN_OUT")
            .output()
            .unwrap()
    }

    /// The exit code and standard error.
    fn refused(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.raisin(arguments);
        assert_eq!(text(&output.stdout), "", "standard output is for data");
        (output.status.code(), text(&output.stderr))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_wrong_pipeline_is_refused_with_its_place_before_anything_is_made() {
    let project = Project::new("[pipeline]\nsed = 3\n");
    for command in ["build", "plan"] {
        let (code, words) = project.refused(&[command, "p.toml"]);
        assert_eq!(words, "error: p.toml:2:1: [pipeline] has no key `sed`\nhint: did you mean `seed`?\n");
        assert_eq!(code, Some(2));
    }
    assert!(!project.folder.path().join("cache").exists());
}

#[test]
fn a_missing_pipeline_and_a_wrong_flag_exit_with_two() {
    let project = Project::new("");
    let (code, words) = project.refused(&["build", "q.toml"]);
    assert_eq!(code, Some(2));
    assert!(words.starts_with("error: cannot read the pipeline q.toml"), "{words}");
    assert_eq!(project.refused(&["build", "p.toml", "--deivce", "cpu"]).0, Some(2));
    let (code, words) = project.refused(&["build", "p.toml", "--set", "seed"]);
    assert_eq!(code, Some(2));
    assert!(words.starts_with("error: from --set seed: there is no `=`"), "{words}");
}

#[test]
fn without_arguments_a_short_page_shows_how_to_begin() {
    let (code, words) = Project::new("").refused(&[]);
    assert_eq!(code, Some(2));
    assert!(words.contains("raisin build pipelines/quickstart.toml"), "{words}");
    assert!(!words.contains("run-stage"), "{words}");
}

#[test]
fn an_unknown_kind_to_describe_is_refused() {
    let (code, words) = Project::new("").refused(&["kinds", "nothing-like-it"]);
    assert_eq!(code, Some(2));
    assert!(words.contains("there is no kind `nothing-like-it`"), "{words}");
}

#[test]
fn doctor_follows_the_folders_that_it_is_given() {
    let output = Project::new("").raisin(&["doctor", "--cache", "elsewhere"]);
    assert!(text(&output.stdout).contains("cache     elsewhere does not exist yet"), "{}", text(&output.stdout));
}

/// `RAISIN_BLESS=1 cargo test committed_schema_is_current` writes it anew.
#[test]
fn committed_schema_is_current() {
    let path: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/pipeline.schema.json");
    let printed = text(&Project::new("").raisin(&["schema"]).stdout);
    if std::env::var_os("RAISIN_BLESS").is_some() {
        std::fs::write(&path, &printed).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert!(committed == printed, "run `RAISIN_BLESS=1 cargo test --test cli committed_schema_is_current`");
}

#[test]
fn space_is_counted_by_stage_pipeline_and_variant_and_what_is_pinned_survives_gc() {
    let stages = "[stage.pool]\nkind = \"generate\"\nsize = 20\n[stage.counted]\nkind = \"sql\"\nof = [\"pool\"]\n\
         query = \"select count(*) as n from pool.instructions\"\n";
    let project =
        Project::new(&format!("[pipeline]\nname = \"swept\"\n{stages}[sweep]\n\"stage.pool.size\" = [20, 30]\n"));
    let run = |arguments: &[&str]| {
        let output = project.raisin(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    };
    run(&["build", "p.toml"]);
    let rows = |by: &str| {
        let (table, _) = run(&["du", "--by", by]);
        let row = |line: &str| line.split(['|', ' ']).filter(|word| !word.is_empty()).map(str::to_owned).collect();
        table.lines().map(row).collect::<Vec<Vec<String>>>()
    };
    let count = |table: &[Vec<String>], name: &str| {
        let row = table.iter().find(|row| row.iter().any(|word| word == name)).unwrap_or_else(|| panic!("{table:?}"));
        row.iter().find_map(|word| word.parse::<u64>().ok()).unwrap_or_else(|| panic!("{row:?}"))
    };
    // The query sees both variants at once.
    assert_eq!(count(&rows("pipeline"), "swept"), 3);
    assert_eq!((count(&rows("stage"), "pool"), count(&rows("stage"), "counted")), (2, 1));
    assert_eq!((count(&rows("variant"), "size=20"), count(&rows("variant"), "size=30")), (1, 1));

    run(&["pin", "swept", "pool"]);
    std::fs::remove_dir_all(project.folder.path().join("out")).unwrap();
    let (would, told) = run(&["gc"]);
    assert!(would.matches("artifact ").count() == 1 && told.contains("would free"), "{would}{told}");
    let (freed, told) = run(&["gc", "--yes"]);
    assert!(freed == would && told.contains("2 artifacts stay"), "{freed}{told}");
    let (_, again) = run(&["build", "p.toml"]);
    assert!(again.contains("1 ran, 2 cached"), "{again}");
    let (_, told) = run(&["unpin", "swept", "pool"]);
    assert!(told.contains("2 unpinned"), "{told}");
}
