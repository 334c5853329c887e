//! For build scripts: declares as cfgs what a test needs besides the code. If something that a test needs is missing,
//! the test is ignored and says why, instead of passing. A test harness decides at compile time which tests are
//! ignored.

/// Sets a cfg for each environment variable that is set and not empty.
pub fn variables(names: &[(&str, &str)]) {
    for (variable, cfg) in names {
        println!("cargo:rerun-if-env-changed={variable}");
        flag(cfg, std::env::var_os(variable).is_some_and(|value| !value.is_empty()));
    }
}

/// Declares a cfg, and sets it if `is_given`.
pub fn flag(cfg: &str, is_given: bool) {
    println!("cargo:rustc-check-cfg=cfg({cfg})");
    if is_given {
        println!("cargo:rustc-cfg={cfg}");
    }
}
