//! From the tree to [`Settings`]: one pass that decodes every component, then one that checks how they are wired.
//!
//! Nothing stops at the first mistake. What cannot be read is replaced by its default for the rest of the pass, and
//! the settings are thrown away if any error was reported.

mod address;
mod components;
mod composite;
mod conditions;
mod exporters;
mod fields;
mod memory;
mod mesh;
mod order;
mod policies;
mod ports;
mod processors;
mod receivers;
mod resource;
mod rule_tests;
mod sampling;
mod service;
mod values;
mod whole_traces;
mod wiring;

use std::net::SocketAddr;
use std::path::PathBuf;

use super::problem::{Problem, Severity};
use super::schema::ROOT;
use super::settings::Settings;
use super::tree::{Node, Place};
use fields::Fields;
pub(super) use rule_tests::read as rule_tests;

/// What the configuration may depend on besides its text: facts of the machine, read by the caller.
#[derive(Clone, Debug, Default)]
pub struct HostFacts {
    /// Name of the node, where none is given.
    pub hostname: String,
    /// What `limit_percentage` is a percentage of; 0: not known.
    pub memory_bytes: u64,
}

/// A file that the configuration names. Whether it exists is for the caller to see.
#[derive(Clone, Debug)]
pub struct FileUse {
    pub place: Place,
    /// Path of the key, `connectors.mesh.tls.ca_file`.
    pub path: String,
    pub file: PathBuf,
}

/// What a pass over the tree brings.
pub(super) struct Checked {
    /// `None` if there is an error among the problems.
    pub settings: Option<Settings>,
    pub problems: Vec<Problem>,
    pub defaults: Vec<(Vec<String>, String)>,
    pub files: Vec<FileUse>,
}

/// The state of a pass.
struct Check<'h> {
    host: &'h HostFacts,
    problems: Vec<Problem>,
    defaults: Vec<(Vec<String>, String)>,
    files: Vec<FileUse>,
    listens: Vec<Listen>,
}

/// An address that the node will listen at.
#[derive(Clone, Debug)]
struct Listen {
    address: SocketAddr,
    udp: bool,
    /// Component id or section that wants it.
    owner: String,
    path: String,
    place: Place,
}

impl Check<'_> {
    fn say(&mut self, problem: Problem) {
        self.problems.push(problem);
    }
}

pub(super) fn check(root: &Node, host: &HostFacts) -> Checked {
    let (problems, defaults, files, listens) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut check = Check { host, problems, defaults, files, listens };
    let fields = Fields::open(&mut check, root, root.at, Vec::new(), &ROOT);
    let components = components::read(&mut check, &fields);
    let service = service::read(&mut check, &fields);
    let settings = wiring::wire(&mut check, components, service);
    let failed = check.problems.iter().any(|p| p.severity == Severity::Error);
    let Check { problems, defaults, files, .. } = check;
    Checked { settings: (!failed).then_some(settings), problems, defaults, files }
}
