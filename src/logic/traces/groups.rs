//! The spans of a batch by trace.

use hashbrown::HashTable;

use super::keys::Keys;
use crate::model::{Spans, TraceId};

/// A table that one large batch has blown up is not kept.
const KEEP: usize = 4096;

pub(super) struct Group {
    pub(super) id: TraceId,
    /// Of the id.
    pub(super) hash: u64,
    begin: u32,
    end: u32,
}

/// Scratch, so that no batch pays for another table.
#[derive(Default)]
pub(super) struct Groups {
    table: HashTable<u32>,
    groups: Vec<Group>,
    group_of: Vec<u32>,
    order: Vec<u32>,
}

impl Groups {
    /// Groups the spans at `indexes`; groups come by their first span, and keep the order of the spans.
    pub(super) fn sort(&mut self, spans: &Spans, indexes: &[u32], keys: &Keys) {
        use hashbrown::hash_table::Entry::{Occupied, Vacant};
        self.clear();
        let Groups { table, groups, group_of, order } = self;
        let mut last = u32::MAX;
        for index in indexes {
            let id = spans.spans[*index as usize].trace_id;
            if groups.get(last as usize).is_none_or(|group| group.id != id) {
                let hash = keys.trace(&id);
                let same = |group: &u32| groups[*group as usize].id == id;
                last = match table.entry(hash, same, |group| groups[*group as usize].hash) {
                    Occupied(known) => *known.get(),
                    Vacant(vacant) => {
                        let number = groups.len() as u32;
                        vacant.insert(number);
                        groups.push(Group { id, hash, begin: 0, end: 0 });
                        number
                    }
                };
            }
            groups[last as usize].end += 1;
            group_of.push(last);
        }
        let mut sum = 0;
        for group in groups.iter_mut() {
            let len = group.end;
            (group.begin, group.end) = (sum, sum);
            sum += len;
        }
        order.resize(indexes.len(), 0);
        for (index, group) in indexes.iter().zip(&*group_of) {
            let group = &mut groups[*group as usize];
            order[group.end as usize] = *index;
            group.end += 1;
        }
    }

    fn clear(&mut self) {
        if self.table.capacity() > KEEP || self.group_of.capacity() > 4 * KEEP {
            *self = Groups::default();
        }
        self.table.clear();
        self.groups.clear();
        self.group_of.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }

    /// Memory in use.
    pub(super) fn bytes(&self) -> u64 {
        let lists = (self.group_of.capacity() + self.order.capacity()) * size_of::<u32>();
        (self.table.allocation_size() + self.groups.capacity() * size_of::<Group>() + lists) as u64
    }

    /// Each group with the indexes of its spans.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Group, &[u32])> {
        self.groups.iter().map(|group| (group, &self.order[group.begin as usize..group.end as usize]))
    }
}
