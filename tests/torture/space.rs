//! Tortures builds with a real file system that becomes full, with every stage kind.

use crate::world::{PIPELINE, build, digests, full};
use raisin_tests::Project;

/// A shell script that builds into a cache of this number of mebibytes. If the build fails, the script frees space and
/// builds again. If the first build succeeds, the script ends with 90.
fn script(mebibytes: usize) -> String {
    let raisin = raisin_tests::executable("raisin");
    let raisin = raisin.display();
    format!(
        "mkdir cache && mount -t tmpfs -o size={mebibytes}m none cache || exit 99\n\
         cp {PIPELINE} before.toml\n\
         '{raisin}' build {PIPELINE} && fitted=90\n\
         cmp {PIPELINE} before.toml || exit 91\n\
         mount -o remount,size=1g cache || exit 99\n\
         '{raisin}' verify || exit 92\n\
         '{raisin}' build --quiet {PIPELINE} || exit 93\n\
         '{raisin}' verify || exit 94\n\
         exit ${{fitted:-0}}"
    )
}

/// The micro pipeline. In the full form, its models have several mebibytes.
fn project() -> Project {
    let project = Project::with_pipeline(PIPELINE);
    if full() {
        let text = std::fs::read_to_string(project.path(PIPELINE)).expect("a pipeline");
        let larger = text.replace("hidden_size = 16", "hidden_size = 128").replace("_size = 32 }", "_size = 256 }");
        assert_ne!(text, larger);
        project.write(PIPELINE, &larger);
    }
    project
}

#[test]
#[cfg_attr(not(can_mount), ignore = "`unshare` cannot mount here")]
fn a_disk_that_is_full_after_any_mebibyte_is_an_error_and_loses_nothing() {
    let expected = {
        let project = project();
        build(&project);
        digests(&project)
    };
    let mut tried = 0;
    loop {
        let mebibytes = tried + 1;
        let project = project();
        let answer = project.in_a_mount_namespace(&script(mebibytes));
        let words = format!("{mebibytes} MiB: {}\n{}", answer.code, answer.stderr);
        assert!(answer.code == 0 || answer.code == 90, "{words}");
        assert_eq!(digests(&project), expected, "{words}");
        if answer.code == 90 {
            break;
        }
        assert!(answer.stderr.contains("No space left") && !answer.stderr.contains("panicked"), "{words}");
        tried += 1;
    }
    assert!(tried > 0);
    println!("{tried} file systems full after 1, 2, ... MiB: a clear error, a valid store, the next build succeeds");
}
