//! A task's or template's graph, and its drawings: pure functions from names, parents and states to text.

mod svg;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tasker_lifecycle::{StepIndex, StepState};
use utoipa::{IntoParams, ToSchema};

/// The steps of a task or template and what depends on what.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct Graph {
    /// The name of the template.
    pub name: String,
    /// The steps, in topological order.
    pub nodes: Vec<GraphNode>,
    /// One for each dependency, by the names of the steps.
    pub edges: Vec<GraphEdge>,
}

/// One step in a graph.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct GraphNode {
    /// The step's name.
    pub name: String,
    /// Its state; absent in the graph of a template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub state: Option<StepState>,
}

/// One dependency.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
pub struct GraphEdge {
    /// The step that is depended on.
    pub from: String,
    /// The step that waits for it.
    pub to: String,
}

/// How a graph is written for machines and documents. For the terminal there is [`Graph::ascii`].
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GraphFormat {
    /// [`Graph`] itself.
    #[default]
    Json,
    /// A Mermaid flowchart.
    Mermaid,
    /// A digraph for Graphviz.
    Dot,
    /// A drawing.
    Svg,
}

/// Query of `GET /v1/tasks/{uuid}/graph`.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams, Serialize)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct GraphQuery {
    /// `json` if absent.
    #[serde(default)]
    pub format: GraphFormat,
}

impl GraphFormat {
    /// Every format.
    pub const ALL: [Self; 4] = [Self::Json, Self::Mermaid, Self::Dot, Self::Svg];

    /// The name in queries and options.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Mermaid => "mermaid",
            Self::Dot => "dot",
            Self::Svg => "svg",
        }
    }

    /// The media type of an answer in this format.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Mermaid => "text/vnd.mermaid",
            Self::Dot => "text/vnd.graphviz",
            Self::Svg => "image/svg+xml",
        }
    }
}

impl FromStr for GraphFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|format| format.as_str() == text)
            .ok_or_else(|| format!("`{text}` is not a graph format; use json, mermaid, dot or svg"))
    }
}

impl Graph {
    /// The graph of `names`, where `parents` gives for each step, in the same order, the steps it depends on.
    /// `states` is absent for a template.
    ///
    /// # Panics
    /// Where the three differ in length or a parent is out of range.
    pub fn new<'a, P: AsRef<[StepIndex]>>(
        name: &str,
        names: impl IntoIterator<Item = &'a str>,
        parents: impl IntoIterator<Item = P>,
        states: Option<&[StepState]>,
    ) -> Self {
        let names: Vec<&str> = names.into_iter().collect();
        let parents: Vec<P> = parents.into_iter().collect();
        assert_eq!(names.len(), parents.len(), "every step has a list of parents");
        assert!(states.is_none_or(|states| states.len() == names.len()), "every step has a state");
        let order = topological(&parents);
        let nodes = order
            .iter()
            .map(|&i| GraphNode { name: names[i].to_owned(), state: states.map(|states| states[i]) })
            .collect();
        let edges = order
            .iter()
            .flat_map(|&i| parents[i].as_ref().iter().map(move |parent| (parent.0 as usize, i)))
            .map(|(from, to)| GraphEdge { from: names[from].to_owned(), to: names[to].to_owned() })
            .collect();
        Self { name: name.to_owned(), nodes, edges }
    }

    /// The graph as text in this format.
    #[must_use]
    pub fn render(&self, format: GraphFormat) -> String {
        match format {
            GraphFormat::Json => serde_json::to_string(self).expect("strings and lists are always JSON"),
            GraphFormat::Mermaid => self.mermaid(),
            GraphFormat::Dot => self.dot(),
            GraphFormat::Svg => svg::draw(self),
        }
    }

    /// The graph for a terminal: one line a step, in layers, each with what it waits for.
    #[must_use]
    pub fn ascii(&self) -> String {
        let layers = self.layers();
        let parents = self.parents();
        let width = self.nodes.iter().map(|node| node.name.chars().count()).max().unwrap_or(0);
        let mut text = format!("{}\n", self.name);
        for (depth, layer) in layers.iter().enumerate() {
            for (row, &node) in layer.iter().enumerate() {
                let number = if row == 0 { (depth + 1).to_string() } else { String::new() };
                let state = self.nodes[node].state.map_or("", StepState::as_str);
                let waits_for = self.few_names(&parents[node]);
                let state_width = if self.nodes[node].state.is_some() { 17 } else { 0 };
                let line = format!("{number:>4}  {:width$}  {state:state_width$}  {waits_for}", self.nodes[node].name);
                text.push_str(line.trim_end());
                text.push('\n');
            }
        }
        text
    }

    fn few_names(&self, parents: &[usize]) -> String {
        const SHOWN: usize = 4;
        if parents.is_empty() {
            return String::new();
        }
        let names: Vec<&str> = parents.iter().take(SHOWN).map(|&i| self.nodes[i].name.as_str()).collect();
        let more = parents.len().saturating_sub(SHOWN);
        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("<- {}{rest}", names.join(", "))
    }

    fn mermaid(&self) -> String {
        let mut text = String::from("flowchart TD\n");
        for (i, node) in self.nodes.iter().enumerate() {
            // Mermaid has no escapes inside quotes but its own entities.
            let label = node.name.replace('#', "#35;").replace('"', "#quot;");
            let class = node.state.map_or(String::new(), |state| format!(":::{state}"));
            let _ = writeln!(text, "  s{i}[\"{label}\"]{class}");
        }
        for (to, parents) in self.parents().iter().enumerate() {
            for from in parents {
                let _ = writeln!(text, "  s{from} --> s{to}");
            }
        }
        for state in StepState::ALL.iter().filter(|state| self.nodes.iter().any(|node| node.state == Some(**state))) {
            let _ = writeln!(text, "  classDef {state} fill:{},color:#111", fill(Some(*state)));
        }
        text
    }

    fn dot(&self) -> String {
        let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
        let mut text = format!("digraph {} {{\n  node [shape=box, style=\"rounded,filled\"];\n", quoted(&self.name));
        for node in &self.nodes {
            let fill = fill(node.state);
            let tooltip = node.state.map_or(String::new(), |state| format!(", tooltip=\"{state}\""));
            let _ = writeln!(text, "  {} [fillcolor=\"{fill}\"{tooltip}];", quoted(&node.name));
        }
        for edge in &self.edges {
            let _ = writeln!(text, "  {} -> {};", quoted(&edge.from), quoted(&edge.to));
        }
        text.push_str("}\n");
        text
    }

    /// For each node the nodes it waits for. An edge that names no node (a newer server's) is left out.
    fn parents(&self) -> Vec<Vec<usize>> {
        let index: HashMap<&str, usize> =
            self.nodes.iter().enumerate().map(|(i, node)| (node.name.as_str(), i)).collect();
        let mut parents = vec![Vec::new(); self.nodes.len()];
        for edge in &self.edges {
            if let (Some(&from), Some(&to)) = (index.get(edge.from.as_str()), index.get(edge.to.as_str())) {
                parents[to].push(from);
            }
        }
        parents
    }

    /// The nodes by the length of the longest path that leads to them.
    fn layers(&self) -> Vec<Vec<usize>> {
        let parents = self.parents();
        let mut depth = vec![0_usize; self.nodes.len()];
        let mut layers: Vec<Vec<usize>> = Vec::new();
        for node in 0..self.nodes.len() {
            depth[node] = parents[node].iter().map(|&parent| depth[parent] + 1).max().unwrap_or(0);
            if layers.len() <= depth[node] {
                layers.resize(depth[node] + 1, Vec::new());
            }
            layers[depth[node]].push(node);
        }
        layers
    }
}

/// Step numbers with parents before children; steps on a cycle, which no template has, come last.
fn topological<P: AsRef<[StepIndex]>>(parents: &[P]) -> Vec<usize> {
    let mut children = vec![Vec::new(); parents.len()];
    let mut open: Vec<usize> = parents.iter().map(|parents| parents.as_ref().len()).collect();
    for (step, list) in parents.iter().enumerate() {
        for parent in list.as_ref() {
            children[parent.0 as usize].push(step);
        }
    }
    let mut order: Vec<usize> = (0..parents.len()).filter(|&step| open[step] == 0).collect();
    let mut next = 0;
    while next < order.len() {
        for &child in &children[order[next]] {
            open[child] -= 1;
            if open[child] == 0 {
                order.push(child);
            }
        }
        next += 1;
    }
    order.extend((0..parents.len()).filter(|&step| open[step] > 0));
    order
}

/// The colour of a step's box.
fn fill(state: Option<StepState>) -> &'static str {
    match state {
        None | Some(StepState::Pending) => "#e5e7eb",
        Some(StepState::Held) => "#ddd6fe",
        Some(StepState::Enqueued) => "#bfdbfe",
        Some(StepState::InProgress) => "#93c5fd",
        Some(StepState::WaitingForRetry) => "#fde68a",
        Some(StepState::Complete) => "#86efac",
        Some(StepState::Error) => "#fca5a5",
        Some(StepState::Cancelled) => "#d1d5db",
        Some(StepState::ResolvedManually) => "#d9f99d",
        Some(StepState::NotCreated | StepState::Skipped) => "#ffffff",
    }
}
