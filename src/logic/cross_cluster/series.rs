//! Counts by cluster, and by pair of clusters: as many label sets as are allowed, and one more for all others.
//!
//! Cluster names come from nodes of the mesh and are few, until somebody feeds resources that bypass the stamping, or a
//! mesh grows beyond what a scrape can carry. The first ones keep their series, for a metric that moves from one label set
//! to another under load is worse than a coarse one.

use std::collections::BTreeMap;

/// In place of the names of what found no room.
pub(super) const OVERFLOW: &str = "_overflow";

/// One value for each cluster.
pub(super) struct ByCluster<T> {
    most: usize,
    of: BTreeMap<Box<str>, T>,
}

impl<T: Default> ByCluster<T> {
    pub(super) fn new(most: usize) -> ByCluster<T> {
        ByCluster { most, of: BTreeMap::new() }
    }

    /// False: there was no room for this cluster, and the common value was changed.
    pub(super) fn change(&mut self, cluster: &str, change: impl FnOnce(&mut T)) -> bool {
        if let Some(value) = self.of.get_mut(cluster) {
            change(value);
            return true;
        }
        let fits = self.of.len() < self.most;
        let name = if fits { cluster } else { OVERFLOW };
        change(self.of.entry(name.into()).or_default());
        fits
    }

    /// In the order of the names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.of.iter().map(|(cluster, value)| (&**cluster, value))
    }
}

/// One value for each ordered pair of clusters. Maps in a map, because a pair of borrowed names cannot be looked up in a
/// map of owned ones.
pub(super) struct ByPair<T> {
    most: usize,
    pairs: usize,
    of: BTreeMap<Box<str>, BTreeMap<Box<str>, T>>,
}

impl<T> ByPair<T> {
    pub(super) fn new(most: usize) -> ByPair<T> {
        ByPair { most, pairs: 0, of: BTreeMap::new() }
    }

    /// False: there was no room for this pair, and the common value was changed.
    pub(super) fn change(
        &mut self,
        source: &str,
        target: &str,
        new: impl FnOnce() -> T,
        change: impl FnOnce(&mut T),
    ) -> bool {
        if let Some(value) = self.of.get_mut(source).and_then(|targets| targets.get_mut(target)) {
            change(value);
            return true;
        }
        let fits = self.pairs < self.most;
        let (source, target) = if fits { (source, target) } else { (OVERFLOW, OVERFLOW) };
        self.pairs += usize::from(fits);
        change(self.of.entry(source.into()).or_default().entry(target.into()).or_insert_with(new));
        fits
    }

    /// In the order of the names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str, &T)> {
        self.of
            .iter()
            .flat_map(|(source, targets)| targets.iter().map(move |(target, value)| (&**source, &**target, value)))
    }
}
