//! Draws a plan: the stages and their inputs, as text, Graphviz DOT or Mermaid.

use std::fmt::Write as _;

use super::plan::{Plan, PlannedStage, Status};

/// How a plan is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Diagram {
    /// One line for each stage, with its inputs after an arrow.
    Text,
    Dot,
    Mermaid,
}

/// Draws the plan. Stages that would run are marked.
pub fn diagram(plan: &Plan, form: Diagram) -> String {
    let runs = |stage: &PlannedStage| matches!(stage.status, Status::WouldRun { .. });
    let place = |label: &str| plan.stages.iter().position(|stage| stage.label == label).unwrap_or_default();
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = match form {
        Diagram::Text => plan.stages.iter().try_for_each(|stage| {
            let mark = if runs(stage) { "*" } else { " " };
            let inputs =
                if stage.inputs.is_empty() { String::new() } else { format!(" <- {}", stage.inputs.join(", ")) };
            writeln!(text, "{mark} {}{inputs}", stage.label)
        }),
        Diagram::Dot => {
            text.push_str("digraph raisin {\n  rankdir = LR;\n  node [shape = box];\n");
            let drawn = plan.stages.iter().enumerate().try_for_each(|(number, stage)| {
                let style = if runs(stage) { ", style = dashed" } else { "" };
                writeln!(text, "  s{number} [label = {:?}{style}];", stage.label)?;
                stage.inputs.iter().try_for_each(|input| writeln!(text, "  s{} -> s{number};", place(input)))
            });
            text.push_str("}\n");
            drawn
        }
        Diagram::Mermaid => {
            text.push_str("flowchart LR\n");
            plan.stages
                .iter()
                .enumerate()
                .try_for_each(|(number, stage)| {
                    let class = if runs(stage) { ":::run" } else { "" };
                    writeln!(text, "  s{number}[\"{}\"]{class}", stage.label.replace('"', "#quot;"))?;
                    stage.inputs.iter().try_for_each(|input| writeln!(text, "  s{} --> s{number}", place(input)))
                })
                .and_then(|()| writeln!(text, "  classDef run stroke-dasharray: 4"))
        }
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use raisin_base::digest::Digest;

    fn plan() -> Plan {
        let stage = |label: &str, inputs: &[&str], status| PlannedStage {
            stage: label.to_owned(),
            kind: "sql".to_owned(),
            variants: vec![String::new()],
            label: label.to_owned(),
            inputs: inputs.iter().map(|input| (*input).to_owned()).collect(),
            status,
        };
        let cached = || Status::Cached {
            key: Digest::of(b"k"),
            artifact: Digest::of(b"a"),
            finished: "2026-01-02T03:04:05Z".to_owned(),
            seconds: 1.0,
            run: "r".to_owned(),
            accepted: None,
        };
        let would_run = Status::WouldRun { key: None, why: Vec::new() };
        let stages = vec![
            stage("pool", &[], cached()),
            stage("base", &[], cached()),
            stage("tuned [method=raise]", &["pool", "base"], would_run),
        ];
        Plan { pipeline: "p".to_owned(), stages }
    }

    #[test]
    fn a_plan_is_drawn_in_three_ways() {
        insta::assert_snapshot!(diagram(&plan(), Diagram::Text), @r"
          pool
          base
        * tuned [method=raise] <- pool, base
        ");
        insta::assert_snapshot!(diagram(&plan(), Diagram::Dot), @r#"
        digraph raisin {
          rankdir = LR;
          node [shape = box];
          s0 [label = "pool"];
          s1 [label = "base"];
          s2 [label = "tuned [method=raise]", style = dashed];
          s0 -> s2;
          s1 -> s2;
        }
        "#);
        insta::assert_snapshot!(diagram(&plan(), Diagram::Mermaid), @r#"
        flowchart LR
          s0["pool"]
          s1["base"]
          s2["tuned [method=raise]"]:::run
          s0 --> s2
          s1 --> s2
          classDef run stroke-dasharray: 4
        "#);
    }
}
