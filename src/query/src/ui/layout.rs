//! Places the nodes of a graph in columns, from the inputs on the left to the results on the right: the column of a node
//! is the longest way to it. Long edges get places of their own in the columns between, so that they pass between the
//! nodes. Orders in the columns follow the median of the neighbours (Sugiyama, Tagawa and Toda, 1981).

/// The number of passes over all columns for the orders, and for the heights.
const PASSES: usize = 12;

/// A node or a bend of an edge, in a column.
#[derive(Clone, Debug)]
struct LayoutItem {
    column: usize,
    /// Its size from top to bottom, with the gap below.
    height: f64,
    /// The middle.
    y: f64,
    left: Vec<usize>,
    right: Vec<usize>,
}

/// Where the nodes and the edges lie.
#[derive(Clone, Debug, PartialEq)]
pub struct GraphLayout {
    /// The column and the middle of each node.
    pub places: Vec<(usize, f64)>,
    /// For each edge (from, to): the columns and middles on the way, with both ends.
    pub ways: Vec<Vec<(usize, f64)>>,
    pub columns: usize,
    pub height: f64,
}

/// Lays out nodes with these inputs; the inputs of a node come before it. `height` is that of a node with its gap, `bend`
/// that of an edge on its way.
pub fn layout(inputs: &[Vec<usize>], height: f64, bend: f64) -> GraphLayout {
    let mut items: Vec<LayoutItem> = Vec::with_capacity(inputs.len());
    for sources in inputs {
        let column = sources.iter().map(|source| items[*source].column + 1).max().unwrap_or(0);
        items.push(LayoutItem { column, height, y: 0.0, left: Vec::new(), right: Vec::new() });
    }
    // A node without inputs stands just before the first node that needs it.
    for node in (0..inputs.len()).rev().filter(|node| inputs[*node].is_empty()) {
        let needed = (0..inputs.len()).filter(|other| inputs[*other].contains(&node)).map(|other| items[other].column);
        items[node].column = needed.min().map_or(0, |column| column.saturating_sub(1));
    }
    let mut chains: Vec<Vec<usize>> = Vec::new();
    for (node, sources) in inputs.iter().enumerate() {
        for source in sources {
            let mut chain = vec![*source];
            for column in items[*source].column + 1..items[node].column {
                items.push(LayoutItem { column, height: bend, y: 0.0, left: Vec::new(), right: Vec::new() });
                chain.push(items.len() - 1);
            }
            chain.push(node);
            for pair in chain.windows(2) {
                items[pair[0]].right.push(pair[1]);
                items[pair[1]].left.push(pair[0]);
            }
            chains.push(chain);
        }
    }
    let count = items.iter().map(|item| item.column + 1).max().unwrap_or(0);
    let mut columns: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (place, item) in items.iter().enumerate() {
        columns[item.column].push(place);
    }
    columns.iter().for_each(|column| stack(&mut items, column));
    for pass in 0..PASSES {
        for step in 0..count {
            let (column, to_the_left) = if pass % 2 == 0 { (step, true) } else { (count - 1 - step, false) };
            let wanted = |item: &LayoutItem| {
                let mut middles: Vec<f64> =
                    (if to_the_left { &item.left } else { &item.right }).iter().map(|other| items[*other].y).collect();
                middles.sort_by(f64::total_cmp);
                if middles.is_empty() {
                    return item.y;
                }
                f64::midpoint(middles[(middles.len() - 1) / 2], middles[middles.len() / 2])
            };
            let wishes: Vec<(usize, f64)> =
                columns[column].iter().map(|place| (*place, wanted(&items[*place]))).collect();
            settle(&mut items, &mut columns[column], wishes);
        }
    }
    let top = items.iter().map(|item| item.y - item.height / 2.0).fold(f64::INFINITY, f64::min);
    let bottom = items.iter().map(|item| item.y + item.height / 2.0).fold(f64::NEG_INFINITY, f64::max);
    let place = |item: &usize| (items[*item].column, items[*item].y - top);
    GraphLayout {
        places: (0..inputs.len()).map(|node| place(&node)).collect(),
        ways: chains.iter().map(|chain| chain.iter().map(place).collect()).collect(),
        columns: count,
        height: if inputs.is_empty() { 0.0 } else { bottom - top },
    }
}

/// Stacks a column around 0, in its order.
fn stack(items: &mut [LayoutItem], column: &[usize]) {
    let all: f64 = column.iter().map(|place| items[*place].height).sum();
    let mut y = -all / 2.0;
    for place in column {
        let item = &mut items[*place];
        item.y = y + item.height / 2.0;
        y += item.height;
    }
}

/// Orders a column by its wishes, and gives each item the place next to its wish at which the items do not overlap:
/// items that would overlap form a block around the mean of their wishes.
fn settle(items: &mut [LayoutItem], column: &mut Vec<usize>, mut wishes: Vec<(usize, f64)>) {
    wishes.sort_by(|one, other| one.1.total_cmp(&other.1));
    *column = wishes.iter().map(|(place, _)| *place).collect();
    // (first, middle of the block, height, members)
    let mut blocks: Vec<(f64, f64, Vec<usize>)> = Vec::new();
    for (place, wish) in wishes {
        let mut block = (wish, items[place].height, vec![place]);
        while let Some(before) = blocks.last() {
            if before.0 + before.1 / 2.0 <= block.0 - block.1 / 2.0 + 1e-9 {
                break;
            }
            let Some((middle, height, mut members)) = blocks.pop() else { break };
            let (one, other) = (members.len() as f64, block.2.len() as f64);
            // The middle of the joined block, if each part kept its place as well as it could.
            let joined = height + block.1;
            let wanted = (one * (middle + block.1 / 2.0) + other * (block.0 - height / 2.0)) / (one + other);
            members.append(&mut block.2);
            block = (wanted, joined, members);
        }
        blocks.push(block);
    }
    for (middle, height, members) in blocks {
        let mut y = middle - height / 2.0;
        for place in members {
            items[place].y = y + items[place].height / 2.0;
            y += items[place].height;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(inputs: &[Vec<usize>]) -> GraphLayout {
        let laid = layout(inputs, 60.0, 20.0);
        assert_eq!(laid.places.len(), inputs.len());
        for (node, sources) in inputs.iter().enumerate() {
            for source in sources {
                assert!(laid.places[*source].0 < laid.places[node].0, "{source} is left of {node}");
            }
        }
        for (one, (column, y)) in laid.places.iter().enumerate() {
            assert!(*y >= 29.9 && *y <= laid.height - 29.9, "{one} is on the picture: {y} of {}", laid.height);
            for (other, (second, z)) in laid.places.iter().enumerate().skip(one + 1) {
                assert!(column != second || (y - z).abs() > 59.9, "{one} and {other} do not overlap");
            }
            for way in &laid.ways {
                for (at, middle) in &way[1..way.len() - 1] {
                    assert!(at != column || (middle - y).abs() > 39.9, "an edge passes beside node {one}");
                }
            }
        }
        laid
    }

    #[test]
    fn nodes_do_not_overlap_and_edges_pass_between_them() {
        assert_eq!(check(&[]).columns, 0);
        assert_eq!(check(&[vec![]]).places, [(0, 30.0)]);
        // pool, init, base, features, clusters, selector, tuned, scores, report
        let quickstart: [&[usize]; 9] =
            [&[], &[], &[1, 0], &[0, 2], &[3], &[0, 4, 2], &[0, 4, 2, 5], &[6, 0], &[5, 6, 7]];
        let laid = check(&quickstart.map(<[usize]>::to_vec));
        assert_eq!(laid.columns, 8);
        // Sixty nodes with inputs that a fixed rule gives.
        let many: Vec<Vec<usize>> = (0..60usize)
            .map(|node| (0..node).filter(|source| (node * 7 + source * 13) % 11 == 0 && node - source < 15).collect())
            .collect();
        assert_eq!(check(&many), check(&many));
    }
}
