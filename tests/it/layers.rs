//! The map in ARCHITECTURE.md, held: which module may name which, and that every file says what it is for.

use std::fs;
use std::path::{Path, PathBuf};

/// Each module and those it may name besides itself. What is not here (`node`) may name everyone.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("wire", &["model", "config"]),
    ("logic", &["model", "config", "wire"]),
    ("config", &["model"]),
    ("sampling_tests", &["model", "wire", "logic", "config"]),
    ("pipeline", &["model", "wire", "logic", "config", "runtime", "export"]),
    ("receive", &["model", "wire", "config", "pipeline", "runtime"]),
    ("discover", &["config", "runtime"]),
    ("link", &["model", "wire", "logic", "config", "pipeline", "runtime", "discover"]),
    ("export", &["model", "wire", "logic", "config", "pipeline", "runtime"]),
    (
        "admin",
        &["model", "logic", "config", "pipeline", "runtime", "receive", "export", "link", "discover", "telemetry"],
    ),
    (
        "telemetry",
        &["model", "logic", "config", "pipeline", "runtime", "receive", "export", "link", "discover", "admin"],
    ),
    ("runtime", &["model"]),
    ("dns_zone", &[]),
    ("certs", &["model", "link", "runtime"]),
    ("load", &["model", "wire", "runtime"]),
    ("demo", &["model", "wire", "logic", "config", "runtime", "certs", "dns_zone", "load"]),
    (
        "cli",
        &[
            "model",
            "wire",
            "logic",
            "config",
            "sampling_tests",
            "runtime",
            "admin",
            "telemetry",
            "link",
            "certs",
            "load",
            "demo",
            "node",
        ],
    ),
];

/// All source files but those of tests.
fn sources() -> Vec<(PathBuf, String)> {
    fn walk(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
        let mut entries: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let is_of_tests = path.file_stem().is_some_and(|stem| stem == "tests" || stem == "testing");
            if is_of_tests {
                continue;
            }
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut found);
    found
}

/// The top-level module that a source file belongs to.
fn module_of(path: &Path) -> String {
    let inside = path.strip_prefix(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).unwrap();
    let first = inside.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// Modules named as `crate::module`, outside tests.
fn named(text: &str) -> Vec<&str> {
    let code = text.split("#[cfg(test)]").next().unwrap_or(text);
    let code_lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    code_lines
        .flat_map(|line| line.split("crate::").skip(1))
        .map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or(""))
        .collect()
}

#[test]
fn modules_name_only_those_that_the_map_allows() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let module = module_of(&path);
        let Some((_, allowed)) = MAY_NAME.iter().find(|(name, _)| *name == module) else { continue };
        for name in named(&text) {
            if name != module && !allowed.contains(&name) && !name.is_empty() {
                wrong.push(format!("{} names {name}", path.display()));
            }
        }
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_source_file_begins_by_saying_what_it_is_for() {
    let silent: Vec<String> = sources()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//!"))
        .map(|(path, _)| path.display().to_string())
        .collect();
    assert!(silent.is_empty(), "{}", silent.join("\n"));
}
