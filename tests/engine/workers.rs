//! Tensor stages share workers that stay, and what one of them does is none of the others' business.

use raisin_pipeline::Pipeline;
use serde_json::{Value, json};

use crate::house::House;

/// Process, number of the stage in it, threads: what a `tell` stage wrote.
fn told(house: &House, stage: &str) -> (u32, usize, usize) {
    let text = house.text(stage);
    let mut words = text.split(' ');
    let mut next = || words.next().unwrap();
    (next().parse().unwrap(), next().parse().unwrap(), next().parse().unwrap())
}

fn chain(house: &House) -> Pipeline {
    house.one(&[
        ("one", "tell", json!({"name": "one"})),
        ("two", "tell", json!({"after": "one"})),
        ("three", "tell", json!({"after": "two"})),
    ])
}

#[test]
fn one_worker_makes_stage_after_stage_and_each_has_its_own_log() {
    let house = House::new();
    assert_eq!(house.build(&chain(&house)).ran, 3);
    let (one, two, three) = (told(&house, "one"), told(&house, "two"), told(&house, "three"));
    assert_eq!([(two.0, two.1), (three.0, three.1)], [(one.0, one.1 + 1), (one.0, one.1 + 2)]);
    for record in house.store().actions().unwrap() {
        let log = std::fs::read_to_string(house.store().log_file(record.key)).unwrap();
        let words: Vec<&str> = log.lines().filter(|line| line.starts_with("the words of")).collect();
        assert_eq!(words, [format!("the words of {}", record.stage)]);
        // What it prints goes there too.
        assert!(log.contains(&format!("printed by {}", record.stage)), "{log}");
    }
}

#[test]
fn a_library_that_does_not_end_its_line_takes_no_stage_with_it() {
    let house = House::new();
    let stages = house
        .one(&[("one", "tell", json!({"mumbles": true})), ("two", "tell", json!({"mumbles": true, "after": "one"}))]);
    let summary = house.build(&stages);
    assert_eq!(summary.ran, 2, "{summary:?}");
    assert!(house.log().contains("half a line of one\n"), "{}", house.log());
    assert_eq!(told(&house, "one").0, told(&house, "two").0);
}

#[test]
fn a_worker_for_each_stage_can_be_asked_for() {
    let house = House::new();
    assert_eq!(house.build_so(&chain(&house), |options| options.fresh_workers = true).ran, 3);
    let workers = ["one", "two", "three"].map(|stage| told(&house, stage));
    assert!(workers[0].0 != workers[1].0 && workers[1].0 != workers[2].0, "{workers:?}");
}

#[test]
fn a_worker_that_dies_takes_one_stage_with_it_and_is_replaced() {
    let house = House::new();
    let stages = house.one(&[
        ("a-first", "tell", json!({"name": "first"})),
        ("b-bad", "tell", json!({"crash": true})),
        ("c-last", "tell", json!({"name": "last"})),
        ("d-after", "tell", json!({"after": "b-bad"})),
    ]);
    let summary = house.build_so(&stages, |options| options.keep_going = true);
    assert_eq!((summary.ran, summary.skipped, summary.failures.len()), (2, 1, 1));
    let failure = &summary.failures[0];
    assert!(failure.stage == "b-bad" && failure.reason.contains("signal 6"), "{failure:?}");
    assert!(failure.reason.contains("the words of b-bad"), "{failure:?}");
    assert_ne!(told(&house, "a-first").0, told(&house, "c-last").0);

    // One that only fails leaves the worker as it is.
    let house = House::new();
    let stages: Vec<(&str, &str, Value)> = vec![
        ("a-first", "tell", json!({"name": "first"})),
        ("b-bad", "tell", json!({"fail": true})),
        ("c-last", "tell", json!({"name": "last"})),
    ];
    let summary = house.build_so(&house.one(&stages), |options| options.keep_going = true);
    assert!(summary.failures[0].reason.contains("was told to fail"), "{summary:?}");
    assert_eq!(told(&house, "a-first").0, told(&house, "c-last").0);
}

#[test]
fn stages_that_take_one_thread_each_run_side_by_side_and_resources_are_in_no_key() {
    let house = House::new();
    let meet = house.folder.join("meet");
    std::fs::create_dir(&meet).unwrap();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let meeting = cores.min(2);
    let place = meet.to_str().unwrap();
    let with = |threads: Option<usize>| {
        let stages =
            ["one", "two"].map(|name| (name, "tell", json!({"name": name, "meet": place, "meeting": meeting})));
        let mut pipeline = house.one(&stages);
        pipeline.variants[0].stages.iter_mut().for_each(|stage| stage.resources.threads = threads);
        pipeline
    };
    let summary = house.build(&with(Some(1)));
    assert_eq!(summary.ran, 2, "{summary:?}");
    assert_eq!((told(&house, "one").2, told(&house, "two").2), (1, 1));
    // Without a word each takes all cores, and what it takes changes nothing that is cached.
    assert_eq!(house.build(&with(None)).ran, 0);
    assert_eq!(house.build(&with(Some(7))).ran, 0);
}
