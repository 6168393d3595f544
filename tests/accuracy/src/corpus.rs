//! The files to judge.

use std::fs;
use std::path::{Path, PathBuf};

/// A file of the corpus.
pub struct Sample {
    pub path: PathBuf,
    /// Its path within the corpus, by which it is reported.
    pub name: String,
    /// The folder on the first level that it lies in.
    pub class: String,
    pub size: u64,
}

impl Sample {
    /// Is it there to be hard, not to look like something that an archive has?
    pub fn is_edge(&self) -> bool {
        matches!(self.class.as_str(), "edge" | "old-disks")
    }
}

pub struct Corpus {
    /// In the order of their names.
    pub files: Vec<Sample>,
}

impl Corpus {
    /// All regular files below a folder.
    pub fn find(root: &Path) -> Result<Corpus, String> {
        let mut files = Vec::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(&folder)
                .map_err(|error| format!("\"{}\": {error}", folder.display()))?;
            for entry in entries {
                let entry = entry.map_err(|error| format!("\"{}\": {error}", folder.display()))?;
                let path = entry.path();
                let metadata = entry
                    .metadata()
                    .map_err(|error| format!("\"{}\": {error}", path.display()))?;
                if metadata.is_dir() {
                    folders.push(path);
                } else if metadata.is_file() {
                    files.push(Sample::new(root, path, metadata.len())?);
                }
            }
        }
        if files.is_empty() {
            return Err(format!("no files in \"{}\"", root.display()));
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Corpus { files })
    }
}

impl Sample {
    fn new(root: &Path, path: PathBuf, size: u64) -> Result<Sample, String> {
        let name = path.strip_prefix(root).expect("found below it").to_str();
        // file(1) is given names by lines.
        let name = name.filter(|name| !name.contains(char::is_control));
        let name = name
            .ok_or_else(|| format!("\"{}\" has a name that is no text", path.display()))?
            .to_owned();
        let class = name.split_once('/').map_or("", |(class, _)| class);
        Ok(Sample {
            class: class.to_owned(),
            path,
            name,
            size,
        })
    }
}
