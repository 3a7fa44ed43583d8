//! Drawings of a diamond, whole.
#![allow(clippy::unwrap_used, reason = "tests")]

use tasker_client::types::StepState;
use tasker_client::{Graph, GraphFormat};
use tasker_lifecycle::StepIndex;

/// Given child before parent, to see that the drawing puts them right.
fn diamond(states: Option<&[StepState]>) -> Graph {
    let parents = [vec![StepIndex(2), StepIndex(3)], vec![], vec![StepIndex(1)], vec![StepIndex(1)]];
    Graph::new("order", ["ship", "check", "charge \"now\"", "reserve"], parents, states)
}

const STATES: [StepState; 4] = [StepState::Pending, StepState::Complete, StepState::Error, StepState::InProgress];

#[test]
fn ascii_lists_layers_and_what_each_step_waits_for() {
    let expected = "order
   1  check
   2  charge \"now\"    <- check
      reserve         <- check
   3  ship            <- charge \"now\", reserve
";
    assert_eq!(diamond(None).ascii(), expected);
    let expected = "order
   1  check         complete
   2  charge \"now\"  error              <- check
      reserve       in_progress        <- check
   3  ship          pending            <- charge \"now\", reserve
";
    assert_eq!(diamond(Some(&STATES)).ascii(), expected);
}

#[test]
fn mermaid_names_every_state_once() {
    let expected = "flowchart TD
  s0[\"check\"]:::complete
  s1[\"charge #quot;now#quot;\"]:::error
  s2[\"reserve\"]:::in_progress
  s3[\"ship\"]:::pending
  s0 --> s1
  s0 --> s2
  s1 --> s3
  s2 --> s3
  classDef pending fill:#e5e7eb,color:#111
  classDef in_progress fill:#93c5fd,color:#111
  classDef complete fill:#86efac,color:#111
  classDef error fill:#fca5a5,color:#111
";
    assert_eq!(diamond(Some(&STATES)).render(GraphFormat::Mermaid), expected);
}

#[test]
fn dot_quotes_what_it_must() {
    let dot = diamond(None).render(GraphFormat::Dot);
    assert!(dot.starts_with("digraph \"order\" {\n"), "{dot}");
    assert!(dot.contains("\"check\" -> \"charge \\\"now\\\"\";"), "{dot}");
    assert_eq!(dot.matches(" -> ").count(), 4, "{dot}");
}

#[test]
fn json_reads_back_as_the_same_graph() {
    let graph = diamond(Some(&STATES));
    let read: Graph = serde_json::from_str(&graph.render(GraphFormat::Json)).unwrap();
    assert_eq!(read, graph);
}

#[test]
fn svg_holds_every_step_and_edge_within_its_frame() {
    let graph = Graph::new("a<b", ["x & y", "z"], [vec![], vec![StepIndex(0)]], None);
    let svg = graph.render(GraphFormat::Svg);
    assert!(svg.contains("<title>a&lt;b</title>") && svg.contains(">x &amp; y</text>"), "{svg}");
    assert_eq!((svg.matches("<rect").count(), svg.matches("<path").count()), (2, 1), "{svg}");
    assert!(!svg.contains("NaN") && !svg.contains("\"-"), "{svg}");
}

#[test]
fn an_empty_graph_is_drawn_too() {
    let graph = Graph::new("none", [], Vec::<Vec<StepIndex>>::new(), None);
    assert_eq!(graph.ascii(), "none\n");
    for format in GraphFormat::ALL {
        assert!(!graph.render(format).is_empty());
        assert_eq!(format.as_str().parse::<GraphFormat>().unwrap(), format);
    }
}

#[test]
fn a_wide_graph_names_only_the_first_parents() {
    let names: Vec<String> = (0..101).map(|i| format!("s{i}")).collect();
    let mut parents = vec![Vec::new(); 101];
    parents[100] = (0..100).map(StepIndex).collect();
    let text = Graph::new("fan", names.iter().map(String::as_str), parents, None).ascii();
    assert!(text.ends_with("<- s0, s1, s2, s3 and 96 more\n"), "{text}");
}
