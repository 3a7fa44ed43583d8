//! A graph as an image: steps in rows by their depth, parents above children.

use std::fmt::Write as _;

use super::{Graph, GraphNode, fill};

const BOX_HEIGHT: f64 = 40.0;
const COLUMN_GAP: f64 = 24.0;
const LAYER_GAP: f64 = 48.0;
const MARGIN: f64 = 16.0;
/// Advance of one character at 13 px in the usual sans-serif fonts, on the wide side.
const CHARACTER: f64 = 7.5;

struct Place {
    x: f64,
    y: f64,
    width: f64,
}

impl Place {
    fn centre(&self) -> f64 {
        self.x + self.width / 2.0
    }
}

/// A drawing in layers by depth, each layer centred and ordered by the middle of its parents.
pub(super) fn draw(graph: &Graph) -> String {
    let parents = graph.parents();
    let (places, width, height) = place(graph, &parents);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" font-size=\"13\">\n<title>{}</title>\n",
        escape(&graph.name)
    );
    for (to, list) in parents.iter().enumerate() {
        for &from in list {
            edge(&mut svg, &places[from], &places[to]);
        }
    }
    for (node, place) in graph.nodes.iter().zip(&places) {
        step(&mut svg, node, place);
    }
    svg.push_str("</svg>\n");
    svg
}

fn place(graph: &Graph, parents: &[Vec<usize>]) -> (Vec<Place>, f64, f64) {
    let mut places: Vec<Place> =
        graph.nodes.iter().map(|node| Place { x: 0.0, y: 0.0, width: label_width(node) }).collect();
    let mut layers = graph.layers();
    let span = |layer: &[usize], places: &[Place]| {
        layer.iter().map(|&node| places[node].width + COLUMN_GAP).sum::<f64>() - COLUMN_GAP
    };
    let widest = layers.iter().map(|layer| span(layer, &places)).fold(0.0, f64::max);
    for (depth, layer) in layers.iter_mut().enumerate() {
        let middle = |node: usize| {
            let sum: f64 = parents[node].iter().map(|&parent| places[parent].centre()).sum();
            sum / parents[node].len().max(1) as f64
        };
        layer.sort_by(|&a, &b| middle(a).total_cmp(&middle(b)));
        let mut x = MARGIN + (widest - span(layer, &places)) / 2.0;
        for &node in layer.iter() {
            places[node].x = x;
            places[node].y = MARGIN + depth as f64 * (BOX_HEIGHT + LAYER_GAP);
            x += places[node].width + COLUMN_GAP;
        }
    }
    let depth = layers.len() as f64;
    let height = 2.0 * MARGIN + depth * BOX_HEIGHT + (depth - 1.0).max(0.0) * LAYER_GAP;
    (places, widest + 2.0 * MARGIN, height)
}

fn label_width(node: &GraphNode) -> f64 {
    let state = node.state.map_or(0, |state| state.as_str().len());
    node.name.chars().count().max(state) as f64 * CHARACTER + 24.0
}

fn edge(svg: &mut String, from: &Place, to: &Place) {
    let (x1, y1) = (from.centre(), from.y + BOX_HEIGHT);
    let (x2, y2) = (to.centre(), to.y);
    let bend = (y2 - y1) / 2.0;
    let _ = writeln!(
        svg,
        "<path d=\"M{x1:.1} {y1:.1}C{x1:.1} {:.1} {x2:.1} {:.1} {x2:.1} {y2:.1}\" fill=\"none\" stroke=\"#6b7280\"/>",
        y1 + bend,
        y2 - bend
    );
}

fn step(svg: &mut String, node: &GraphNode, place: &Place) {
    let (x, y, width) = (place.x, place.y, place.width);
    let _ = write!(
        svg,
        "<g text-anchor=\"middle\"><rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BOX_HEIGHT}\" \
         rx=\"6\" fill=\"{}\" stroke=\"#374151\"/>",
        fill(node.state)
    );
    let baseline = if node.state.is_some() { y + 17.0 } else { y + 24.0 };
    let _ = write!(svg, "<text x=\"{:.1}\" y=\"{baseline:.1}\">{}</text>", place.centre(), escape(&node.name));
    if let Some(state) = node.state {
        let y = y + 32.0;
        let _ = write!(svg, "<text x=\"{:.1}\" y=\"{y:.1}\" font-size=\"10\">{state}</text>", place.centre());
    }
    svg.push_str("</g>\n");
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
