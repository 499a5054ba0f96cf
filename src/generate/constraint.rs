//! Which tokens may come next, where only certain texts are allowed: an automaton over tokens, made
//! of parts that follow one another, and a walk through it.
//!
//! Where just one token may follow it needs no model: the scheduler takes it as it is.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Number of a node.
type NodeId = u32;

/// The node at which a text is whole.
const END: NodeId = 0;

#[derive(Clone, Debug, Default)]
struct Node {
    /// Tokens that may follow, each with the node it leads to.
    edges: Vec<(u32, NodeId)>,
    /// Nodes that are reached without a token.
    skips: Vec<NodeId>,
    /// Fewest tokens from here to the end.
    shortest: usize,
}

/// Puts an automaton together from its end to its beginning.
pub(crate) struct Builder {
    nodes: Vec<Node>,
}

impl Builder {
    /// An automaton that has nothing but its end.
    pub(crate) fn new() -> Builder {
        Builder {
            nodes: vec![Node::default()],
        }
    }

    /// The node at which a text is whole.
    pub(crate) fn end(&self) -> NodeId {
        END
    }

    /// A node from which each of `parts` leads to all of `next`. An empty part leads there at once;
    /// without parts or without `next` nothing leads on from the node.
    pub(crate) fn any_of<'p>(
        &mut self,
        parts: impl IntoIterator<Item = &'p [u32]>,
        next: &[NodeId],
    ) -> NodeId {
        let root = self.add();
        for part in parts {
            let mut at = root;
            for &token in part {
                let known = self.nodes[at as usize].edges.iter();
                let known = known.copied().find(|&(other, _)| other == token);
                at = match known {
                    Some((_, node)) => node,
                    None => {
                        let node = self.add();
                        self.nodes[at as usize].edges.push((token, node));
                        node
                    }
                };
            }
            self.nodes[at as usize].skips = next.to_vec();
        }
        // Later nodes lie nearer to the end, and what follows was there before.
        for number in (root as usize..self.nodes.len()).rev() {
            let shortest = |node: NodeId| self.nodes[node as usize].shortest;
            let Node { edges, skips, .. } = &self.nodes[number];
            let behind = edges
                .iter()
                .map(|&(_, node)| shortest(node).saturating_add(1));
            let least = behind.chain(skips.iter().map(|&node| shortest(node))).min();
            self.nodes[number].shortest = least.unwrap_or(usize::MAX);
        }
        root
    }

    /// The automaton that begins at this node. Each of `ends` says that a text is over; where it
    /// may be over and may go on, the model chooses between them and what goes on.
    pub(crate) fn build(self, start: NodeId, ends: &[u32]) -> TokenAutomaton {
        TokenAutomaton {
            nodes: self.nodes,
            start,
            ends: ends.to_vec(),
        }
    }

    fn add(&mut self) -> NodeId {
        self.nodes.push(Node {
            shortest: usize::MAX,
            ..Node::default()
        });
        (self.nodes.len() - 1) as NodeId
    }
}

/// The token sequences that are allowed.
#[derive(Debug)]
pub struct TokenAutomaton {
    nodes: Vec<Node>,
    start: NodeId,
    ends: Vec<u32>,
}

impl TokenAutomaton {
    /// Allows exactly these texts, each followed by one of `ends`. An empty text is over at once.
    pub fn of_texts<'t>(
        texts: impl IntoIterator<Item = &'t [u32]>,
        ends: &[u32],
    ) -> TokenAutomaton {
        let mut builder = Builder::new();
        let end = builder.end();
        let start = builder.any_of(texts, &[end]);
        builder.build(start, ends)
    }

    /// Tokens of the shortest allowed text, the end not counted; `usize::MAX` if there is none.
    pub fn shortest(&self) -> usize {
        self.nodes[self.start as usize].shortest
    }

    /// Nodes, for reports.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }
}

/// What may come next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// One of these tokens, in rising order, none twice; the model chooses.
    Choice(Vec<u32>),
    /// This token, whatever the model says.
    Forced(u32),
    /// Nothing: the text is whole.
    End,
    /// Nothing, and the text is not whole: there is no room for any allowed one.
    Nothing,
}

/// A text on its way through an automaton.
#[derive(Clone, Debug)]
pub struct Walk {
    automaton: Arc<TokenAutomaton>,
    /// Nodes at which the text may be, in rising order.
    at: Vec<NodeId>,
}

impl Walk {
    /// At the beginning.
    pub fn new(automaton: Arc<TokenAutomaton>) -> Walk {
        let at = vec![automaton.start];
        let mut walk = Walk {
            automaton,
            at: Vec::new(),
        };
        walk.go_to(at);
        walk
    }

    /// What may come next where at most `room` tokens more may come, the end not counted.
    pub fn next(&self, room: usize) -> Next {
        let nodes = &self.automaton.nodes;
        let edges = self.at.iter().flat_map(|&node| &nodes[node as usize].edges);
        let mut tokens: BTreeSet<u32> = edges
            .filter(|&&(_, node)| nodes[node as usize].shortest < room)
            .map(|&(token, _)| token)
            .collect();
        let is_whole = self.at.contains(&END);
        match (is_whole, tokens.first()) {
            (true, None) => Next::End,
            (false, None) => Next::Nothing,
            (false, Some(&token)) if tokens.len() == 1 => Next::Forced(token),
            (false, Some(_)) => Next::Choice(tokens.into_iter().collect()),
            (true, Some(_)) => {
                tokens.extend(&self.automaton.ends);
                Next::Choice(tokens.into_iter().collect())
            }
        }
    }

    /// Whether this token says that the text is over.
    pub fn is_end(&self, token: u32) -> bool {
        self.at.contains(&END) && self.automaton.ends.contains(&token)
    }

    /// Takes a token. One that is not allowed leads nowhere.
    pub fn push(&mut self, token: u32) {
        let nodes = &self.automaton.nodes;
        let edges = self.at.iter().flat_map(|&node| &nodes[node as usize].edges);
        let reached = edges.filter(|&&(other, _)| other == token);
        let reached = reached.map(|&(_, node)| node).collect();
        self.go_to(reached);
    }

    /// Stands at these nodes and at those that are reached from them without a token.
    fn go_to(&mut self, mut open: Vec<NodeId>) {
        let mut found = BTreeSet::new();
        while let Some(node) = open.pop() {
            if found.insert(node) {
                open.extend(&self.automaton.nodes[node as usize].skips);
            }
        }
        self.at = found.into_iter().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STOP: u32 = 99;

    /// Perhaps 1; then `2 3` or `2 3 4`; then perhaps `4 5`.
    fn walk() -> Walk {
        let mut builder = Builder::new();
        let end = builder.end();
        let last = builder.any_of([&[][..], &[4, 5]], &[end]);
        let middle = builder.any_of([&[2, 3][..], &[2, 3, 4]], &[last]);
        let first = builder.any_of([&[][..], &[1]], &[middle]);
        Walk::new(Arc::new(builder.build(first, &[STOP])))
    }

    fn after(tokens: &[u32]) -> Walk {
        let mut walk = walk();
        tokens.iter().for_each(|&token| walk.push(token));
        walk
    }

    #[test]
    fn one_token_is_forced_and_several_are_a_choice() {
        assert_eq!(walk().next(9), Next::Choice(vec![1, 2]));
        assert_eq!(after(&[1]).next(9), Next::Forced(2));
        assert_eq!(after(&[1, 2]).next(9), Next::Forced(3));
        assert_eq!(after(&[2, 3]).next(9), Next::Choice(vec![4, STOP]));
        // The 4 is the middle's or the last part's.
        assert_eq!(after(&[2, 3, 4]).next(9), Next::Choice(vec![4, 5, STOP]));
        assert_eq!(after(&[2, 3, 4, 5]).next(9), Next::End);
        assert_eq!(after(&[7]).next(9), Next::Nothing);
    }

    #[test]
    fn the_end_is_one_of_the_choices() {
        assert!(after(&[2, 3]).is_end(STOP) && !after(&[2]).is_end(STOP));
        assert!(!after(&[2, 3]).is_end(4));
    }

    #[test]
    fn nothing_is_begun_that_does_not_fit() {
        assert_eq!(walk().automaton.shortest(), 2);
        assert_eq!(walk().next(1), Next::Nothing);
        assert_eq!(walk().next(2), Next::Forced(2));
        assert_eq!(walk().next(3), Next::Choice(vec![1, 2]));
        assert_eq!(after(&[2, 3]).next(0), Next::End);
        assert_eq!(after(&[2, 3]).next(1), Next::Choice(vec![4, STOP]));
        assert_eq!(after(&[2, 3, 4]).next(1), Next::Choice(vec![5, STOP]));
    }

    #[test]
    fn an_automaton_without_texts_allows_nothing() {
        let mut builder = Builder::new();
        let end = builder.end();
        let none = builder.any_of([], &[end]);
        let automaton = Arc::new(builder.build(none, &[STOP]));
        assert_eq!((automaton.shortest(), automaton.len()), (usize::MAX, 2));
        assert_eq!(Walk::new(automaton).next(9), Next::Nothing);
    }
}
