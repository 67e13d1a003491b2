//! The resources of a stack as a picture: an SVG with a box for each and an arrow from what it needs. Levels stand
//! beside each other from left to right, and within a level boxes stand near what they are tied to.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use olbake_core::stack::ResourceName;
use olbake_core::stack::graph::Graph;
use unicode_width::UnicodeWidthStr;

/// What is written into a box besides its name and type.
pub(crate) type Notes = BTreeMap<ResourceName, String>;

const BOX_HEIGHT: usize = 58;
const ROW: usize = 84;
const GAP: usize = 90;
const MARGIN: usize = 28;
const HEAD: usize = 56;
/// Pixels of a character of the names' font, about.
const CHARACTER: usize = 8;

/// A colour for each kind of resource: the same kind looks the same everywhere.
const COLOURS: [&str; 8] =
    ["#3b6fb6", "#2f8f6b", "#b4682a", "#8a4fa3", "#b23a5a", "#5b7a2a", "#35808f", "#7a6a4f"];

struct Placed<'a> {
    name: &'a ResourceName,
    x: usize,
    y: usize,
    width: usize,
}

/// Draws a graph that has no cycle.
pub(crate) fn svg(title: &str, graph: &Graph, notes: &Notes) -> String {
    let levels = order(graph, graph.levels().unwrap_or_default());
    let rows = levels.iter().map(Vec::len).max().unwrap_or(0);
    let mut placed: BTreeMap<&ResourceName, Placed<'_>> = BTreeMap::new();
    let mut x = MARGIN;
    for level in &levels {
        let width = level.iter().map(|name| box_width(name, graph, notes)).max().unwrap_or(0);
        let top = HEAD + MARGIN + (rows - level.len()) * ROW / 2;
        for (index, name) in level.iter().enumerate() {
            placed.insert(name, Placed { name, x, y: top + index * ROW, width });
        }
        x += width + GAP;
    }
    let title_width = title.width() * 11 + 2 * MARGIN;
    let width = (x.saturating_sub(GAP) + MARGIN).max(title_width);
    let height = HEAD + 2 * MARGIN + rows * ROW;
    let mut text = String::new();
    head(&mut text, title, width, height);
    for (name, (_, dependencies)) in &graph.nodes {
        for dependency in dependencies.iter().filter_map(|name| placed.get(name)) {
            arrow(&mut text, dependency, &placed[name]);
        }
    }
    for node in placed.values() {
        draw(&mut text, node, graph, notes);
    }
    text + "</svg>\n"
}

/// Each level in an order in which boxes are near those that they come after: by the mean place of those.
fn order<'a>(graph: &Graph, levels: Vec<Vec<&'a ResourceName>>) -> Vec<Vec<&'a ResourceName>> {
    let mut place: BTreeMap<&ResourceName, usize> = BTreeMap::new();
    let mut ordered = Vec::new();
    for mut level in levels {
        level.sort_by_key(|name| {
            let before: Vec<usize> =
                graph.nodes[*name].1.iter().filter_map(|name| place.get(name).copied()).collect();
            let mean = if before.is_empty() { 0 } else { before.iter().sum::<usize>() * 100 / before.len() };
            (mean, *name)
        });
        place.extend(level.iter().enumerate().map(|(index, name)| (*name, index)));
        ordered.push(level);
    }
    ordered
}

fn box_width(name: &ResourceName, graph: &Graph, notes: &Notes) -> usize {
    let ty = graph.nodes[name].0.as_str().width();
    let note = notes.get(name).map_or(0, |note| note.width() + 3);
    let longest = name.as_str().width().max((ty + note) * 7 / 8);
    longest * CHARACTER + 34
}

fn head(text: &mut String, title: &str, width: usize, height: usize) {
    writeln!(
        text,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"ui-sans-serif, system-ui, 'DejaVu Sans', sans-serif\">\n\
         <title>{title}</title>\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\">\
         <path d=\"M0 0 8 4 0 8z\" fill=\"#8a94a3\"/></marker></defs>\n\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"{MARGIN}\" y=\"40\" font-size=\"19\" font-weight=\"600\" fill=\"#1d2430\">{title}</text>",
        title = escaped(title),
    )
    .expect("text takes text");
}

fn arrow(text: &mut String, from: &Placed<'_>, to: &Placed<'_>) {
    let (x1, y1) = (from.x + from.width, from.y + BOX_HEIGHT / 2);
    let (x2, y2) = (to.x - 3, to.y + BOX_HEIGHT / 2);
    let bend = (x2.saturating_sub(x1) / 2).max(30);
    writeln!(
        text,
        "<path d=\"M{x1} {y1}C{} {y1} {} {y2} {x2} {y2}\" fill=\"none\" stroke=\"#8a94a3\" stroke-width=\"1.5\" marker-end=\"url(#tip)\"/>",
        x1 + bend,
        x2 - bend,
    )
    .expect("text takes text");
}

fn draw(text: &mut String, node: &Placed<'_>, graph: &Graph, notes: &Notes) {
    let Placed { name, x, y, width } = node;
    let ty = &graph.nodes[*name].0;
    let colour = COLOURS[ty.as_str().bytes().map(usize::from).sum::<usize>() % COLOURS.len()];
    let note = notes.get(*name).map(|note| format!(" · {note}")).unwrap_or_default();
    writeln!(
        text,
        "<g><rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{BOX_HEIGHT}\" rx=\"7\" fill=\"#f7f9fc\" stroke=\"#ccd4df\"/>\
         <rect x=\"{x}\" y=\"{y}\" width=\"6\" height=\"{BOX_HEIGHT}\" rx=\"3\" fill=\"{colour}\"/>\
         <text x=\"{}\" y=\"{}\" font-size=\"14\" font-weight=\"600\" fill=\"#1d2430\">{}</text>\
         <text x=\"{}\" y=\"{}\" font-size=\"12\" fill=\"#5a6675\">{}</text></g>",
        x + 18,
        y + 25,
        escaped(name.as_str()),
        x + 18,
        y + 44,
        escaped(&format!("{ty}{note}")),
    )
    .expect("text takes text");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_resource_and_dependency_is_drawn_inside_the_picture() {
        let node = |ty: &str, needs: &[&str]| {
            let needs: BTreeSet<ResourceName> = needs.iter().map(|name| name.parse().unwrap()).collect();
            (ty.parse().unwrap(), needs)
        };
        let graph = Graph {
            nodes: BTreeMap::from([
                ("net".parse().unwrap(), node("local.network", &[])),
                ("web/lb".parse().unwrap(), node("local.load_balancer", &["net"])),
                ("web/group".parse().unwrap(), node("local.instance_group", &["net", "web/lb"])),
            ]),
        };
        let notes = Notes::from([("net".parse().unwrap(), "<10.0.0.0/24>".to_owned())]);
        let drawn = svg("applications.hello.QA", &graph, &notes);
        assert_eq!(drawn.matches("marker-end").count(), 3);
        assert!(drawn.contains("local.network · &lt;10.0.0.0/24&gt;"));
        let size = |name: &str| -> usize {
            let start = drawn.find(&format!("{name}=\"")).unwrap() + name.len() + 2;
            drawn[start..].split('"').next().unwrap().parse().unwrap()
        };
        let (width, height) = (size("width"), size("height"));
        for rect in drawn.split("<g><rect ").skip(1) {
            let number = |name: &str| -> usize {
                let start = rect.find(&format!("{name}=\"")).unwrap() + name.len() + 2;
                rect[start..].split('"').next().unwrap().parse().unwrap()
            };
            assert!(number("x") + number("width") < width && number("y") + number("height") < height);
        }
    }
}
