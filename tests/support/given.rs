//! For build scripts: what tests need beside the code, as cfgs, so that a test without it is ignored and says why instead of
//! passing. A test harness decides when it is compiled which tests are ignored.

/// A cfg for each variable of the environment that is set and not empty.
pub fn variables(names: &[(&str, &str)]) {
    for (variable, cfg) in names {
        println!("cargo:rerun-if-env-changed={variable}");
        flag(cfg, std::env::var_os(variable).is_some_and(|value| !value.is_empty()));
    }
}

/// A cfg that is there or not.
pub fn flag(cfg: &str, is_given: bool) {
    println!("cargo:rustc-check-cfg=cfg({cfg})");
    if is_given {
        println!("cargo:rustc-cfg={cfg}");
    }
}
