//! Draws a plan: the stages and their inputs, as text, Graphviz DOT or Mermaid.

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
    let place = |label: &str| plan.stages.iter().position(|stage| stage.label == label).unwrap_or_default();
    let mut text = String::from(match form {
        Diagram::Text => "",
        Diagram::Dot => "digraph raisin {\n  rankdir = LR;\n  node [shape = box];\n",
        Diagram::Mermaid => "flowchart LR\n",
    });
    for (number, PlannedStage { label, inputs, status, .. }) in plan.stages.iter().enumerate() {
        let mark = |runs, cached| if matches!(status, Status::WouldRun { .. }) { runs } else { cached };
        text += &match form {
            Diagram::Text if inputs.is_empty() => format!("{} {label}\n", mark("*", " ")),
            Diagram::Text => format!("{} {label} <- {}\n", mark("*", " "), inputs.join(", ")),
            Diagram::Dot => format!("  s{number} [label = {label:?}{}];\n", mark(", style = dashed", "")),
            Diagram::Mermaid => format!("  s{number}[\"{}\"]{}\n", label.replace('"', "#quot;"), mark(":::run", "")),
        };
        for input in inputs {
            match form {
                Diagram::Text => {}
                Diagram::Dot => text += &format!("  s{} -> s{number};\n", place(input)),
                Diagram::Mermaid => text += &format!("  s{} --> s{number}\n", place(input)),
            }
        }
    }
    text + match form {
        Diagram::Text => "",
        Diagram::Dot => "}\n",
        Diagram::Mermaid => "  classDef run stroke-dasharray: 4\n",
    }
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
