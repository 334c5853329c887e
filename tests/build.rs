//! Sets the cfgs that say what this machine offers to the tests. support/given.rs explains the cfgs.

use std::process::{Command, Stdio};

#[path = "support/given.rs"]
mod given;

/// Whether a command can be started and succeeds.
fn succeeds(command: &str, arguments: &[&str]) -> bool {
    let quiet = Command::new(command).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    quiet.is_ok_and(|status| status.success())
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=support/given.rs");
    // The results below depend on the user who runs the tests, and on the folders of the commands.
    println!("cargo:rerun-if-env-changed=USER");
    println!("cargo:rerun-if-env-changed=PATH");
    given::variables(&[
        ("RAISIN_PYTHON", "has_python"),
        ("RAISIN_NOTEBOOKS", "has_notebooks"),
        ("RAISIN_TRAINERS", "has_trainers"),
        ("RAISIN_LLAMA_FACTORY", "has_llama_factory"),
        ("RAISIN_AXOLOTL", "has_axolotl"),
        ("RAISIN_LAST_RELEASE", "has_last_release"),
        ("RAISIN_BROWSER", "has_browser"),
        ("RAISIN_SLURM", "has_slurm"),
        ("RAISIN_SERVERS", "has_servers"),
        ("RAISIN_SHELLS", "has_shells"),
        ("RAISIN_CLUSTER", "has_cluster"),
    ]);
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    given::flag("is_root", is_root);
    let mount = ["sh", "-c", "mount -t tmpfs none /mnt && mount --bind /mnt /mnt"];
    let as_user = ["--mount", "--map-root-user", "--user"];
    let namespace = if is_root { &as_user[..1] } else { &as_user[..] };
    given::flag("can_mount", succeeds("unshare", &[namespace, &mount].concat()));
    let as_user = ["--pid", "--fork", "--map-root-user", "--user"];
    let namespace = if is_root { &as_user[..2] } else { &as_user[..] };
    given::flag("has_pid_namespaces", succeeds("unshare", &[namespace, &["true"]].concat()));
    given::flag("has_cc", succeeds("cc", &["--version"]));
}
