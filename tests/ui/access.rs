//! Who may ask the server, and what is refused.

use std::net::TcpListener;

use raisin_tests::Project;

use crate::{Ui, project};

#[test]
fn only_the_own_page_is_answered_and_only_reading() {
    let project = project();
    let ui = Ui::start(&project, &["p.toml"]);
    let port = ui.port;
    let status = |request: &str, headers: &str| ui.send(&format!("{request} HTTP/1.1\r\n{headers}\r\n\r\n")).status;
    let host = format!("Host: 127.0.0.1:{port}");
    for path in ["/", "/page.css", "/page.js", "/live", "/state"] {
        assert_eq!(status(&format!("GET {path}"), &host), 200, "{path}");
        assert_eq!(status(&format!("GET {path}"), "Host: evil.example"), 403, "{path}");
        assert_eq!(status(&format!("GET {path}"), &format!("{host}\r\nOrigin: http://evil.example")), 403, "{path}");
        assert_eq!(status(&format!("POST {path}"), &host), 405, "{path}");
    }
    let query = |headers: &str| {
        ui.send(&format!("POST /sql HTTP/1.1\r\n{headers}\r\nContent-Length: 8\r\n\r\nselect 1")).status
    };
    assert_eq!(query(&host), 200);
    assert_eq!(query(&format!("{host}\r\nOrigin: http://127.0.0.1:{port}")), 200);
    for other in ["Origin: https://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site"] {
        assert_eq!(query(&format!("{host}\r\n{other}")), 403, "{other}");
    }
    for path in
        ["/../p.toml", "/report/..%2f..%2fp/report", "/report/p/report", "/log/../../p.toml", "/log/abc", "/p.toml"]
    {
        assert_eq!(status(&format!("GET {path}"), &host), 404, "{path}");
    }
    for (request, expected) in [("DELETE /state", 405), ("PUT /sql", 405), ("GET /sql", 400), ("HEAD /", 200)] {
        assert_eq!(status(request, &host), expected, "{request}");
    }
    let long = "x".repeat(40_000);
    assert_eq!(status(&format!("GET /{long}"), &host), 431);
    assert_eq!(status("POST /sql", &format!("{host}\r\nContent-Length: 99999999")), 413);
    // No script and no style from elsewhere.
    let page = ui.get("/");
    assert!(page.head.contains("script-src 'self'") && page.head.contains("default-src 'none'"), "{}", page.head);
    for text in [page.body, ui.get("/page.js").body, ui.get("/page.css").body] {
        assert!(!text.contains("http://") && !text.contains("https://") && !text.contains("@import"));
    }
}

#[test]
fn a_port_in_use_and_a_missing_pipeline_are_errors_that_say_what_to_do() {
    let project = project();
    let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (code, words) = project.refused(&["ui", "--no-open", "--port", &port]);
    assert!(code == 2 && words.contains(&format!("port {port} is in use")) && words.contains("--port N"), "{words}");
    for (arguments, expected) in [
        (["ui", "missing"], "there is no file missing, and no pipeline `missing` was built"),
        (["ui", "missing.toml"], "missing.toml"),
    ] {
        let (code, words) = project.refused(&arguments);
        assert!(code == 2 && words.contains(expected), "{words}");
    }
    project.write("go", "");
    project.done(&["build", "p.toml", "--only", "pool", "--set", "pipeline.name=\"trained\""]);
    let (code, words) = project.refused(&["ui", "tranied"]);
    assert!(code == 2 && words.contains("did you mean `trained`?"), "{words}");
    project.write("broken.toml", "[stage.pool]\nkind = \"generat\"\n");
    let (code, words) = project.refused(&["ui", "broken.toml"]);
    assert!(code == 2 && words.contains("broken.toml:2:"), "{words}");
}

#[test]
fn without_a_pipeline_and_without_a_cache_the_page_says_so() {
    let project = Project::new();
    let ui = Ui::start(&project, &[]);
    assert!(ui.part("build").contains("There is no cache at cache yet"), "{}", ui.part("build"));
    assert_eq!((ui.part("graph"), ui.part("runs")), (String::new(), String::new()));
    let said = ui.ask("show tables");
    assert!(said.to_string().contains("there is no cache here"), "{said}");
    assert!(raisin_tests::paths_below(&project.path("")).is_empty(), "nothing is created");
}
