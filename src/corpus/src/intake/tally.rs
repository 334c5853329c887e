//! Counts of names: fields, formats, notices.

use std::collections::HashMap;

use crate::formats::{Notice, Readout, ShapeReading};

/// Names in the order in which they first occurred, each with a count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    entries: Vec<(String, u64)>,
    /// The place of each name. A file can have thousands of names.
    places: HashMap<String, usize>,
}

impl Names {
    pub fn add(&mut self, name: &str, count: u64) {
        match self.places.get(name) {
            Some(&place) => self.entries[place].1 += count,
            None => {
                self.places.insert(name.to_owned(), self.entries.len());
                self.entries.push((name.to_owned(), count));
            }
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.entries.iter().map(|(name, count)| (name.as_str(), *count))
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// The first of the names with the largest count.
    pub fn most(&self) -> Option<&str> {
        self.entries.iter().rev().max_by_key(|entry| entry.1).map(|entry| entry.0.as_str())
    }

    /// The names and counts as one text, such as `id 100, source 37`.
    pub fn text(&self) -> String {
        self.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
    }
}

/// What was read in some records.
#[derive(Default)]
pub struct Tally {
    /// The number of records that each format read.
    formats: Vec<u64>,
    pub read: Names,
    pub unread: Names,
    pub notices: [u64; Notice::ALL.len()],
}

impl Tally {
    pub fn count<T>(&mut self, readout: &Readout<T>) {
        self.count_format(readout.format, 1);
        readout.used.iter().for_each(|name| self.read.add(name, 1));
        readout.unread.iter().for_each(|name| self.unread.add(name, 1));
        readout.unread_below.iter().for_each(|name| self.unread.add(name, 1));
        for (notice, count) in Notice::ALL.into_iter().zip(&mut self.notices) {
            *count += u64::from(readout.notices.contains(notice));
        }
    }

    /// Counts some records of one shape.
    pub fn count_plan(&mut self, plan: &ShapeReading, count: u64) {
        self.count_format(plan.format, count);
        plan.used.iter().for_each(|name| self.read.add(name, count));
        plan.unread.iter().for_each(|name| self.unread.add(name, count));
        for (notice, sum) in Notice::ALL.into_iter().zip(&mut self.notices) {
            *sum += u64::from(plan.notices.contains(notice)) * count;
        }
    }

    fn count_format(&mut self, format: usize, count: u64) {
        if self.formats.len() <= format {
            self.formats.resize(format + 1, 0);
        }
        self.formats[format] += count;
    }

    /// Adds the counts of later records.
    pub fn add(&mut self, other: Self) {
        other.formats.iter().enumerate().for_each(|(format, &count)| self.count_format(format, count));
        other.read.iter().for_each(|(name, count)| self.read.add(name, count));
        other.unread.iter().for_each(|(name, count)| self.unread.add(name, count));
        self.notices.iter_mut().zip(other.notices).for_each(|(sum, count)| *sum += count);
    }

    /// The number of records that each format read, without formats that read none.
    pub fn formats(&self, names: &[String]) -> Names {
        let mut formats = Names::default();
        let read = names.iter().zip(&self.formats).filter(|(_, count)| **count > 0);
        read.for_each(|(name, &count)| formats.add(name, count));
        formats
    }
}
