//! What a configuration needs of the machine it is checked on: the files that it names.
//!
//! Apart from the check of the configuration itself, since the two are often done in different places: a file checked
//! in CI names certificates that exist only in production. So a missing file is a warning, and `validate
//! --no-environment` does not look.

use std::fs;
use std::path::Path;

use crate::config::{FileUse, Problem};

/// A warning for each file that cannot be used from here.
pub(super) fn check(files: &[FileUse]) -> Vec<Problem> {
    files.iter().filter_map(|used| complaint(used).map(|text| Problem::warning(used.place, &used.path, text))).collect()
}

fn complaint(used: &FileUse) -> Option<String> {
    let shown = used.file.display();
    if used.path.ends_with(".path") {
        // A file that is written: its directory must be there.
        let parent = used.file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        return (!parent.is_dir()).then(|| format!("the directory of {shown} does not exist here"));
    }
    match fs::File::open(&used.file).and_then(|file| file.metadata()) {
        Ok(data) if data.is_file() => None,
        Ok(_) => Some(format!("{shown} is no file")),
        Err(error) => Some(format!("{shown} cannot be read here: {error}")),
    }
}
