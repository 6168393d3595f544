//! A store of real files that many tests share: some of each of many kinds, made here, since a minimal Debian has few,
//! and files of this machine, as varied as it has them. Nobody changes it.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::judge::file_mime;
use crate::scratch;
use crate::store::{Store, blobid_of};

/// Where Debian keeps files of many kinds.
const FOLDERS: &[&str] = &["/usr", "/etc", "/var/lib", "/opt"];

/// How many blobs the shared corpus has.
const SIZE: usize = 2000;

/// Larger files cost time to copy and say little more.
const MAX_BYTES: u64 = 512 << 10;

/// Files looked at in a group before the group counts as large enough.
const GROUP: usize = 40;

/// A blob of the corpus.
#[derive(Clone, Debug)]
pub struct Blob {
    pub blobid: String,
    pub path: PathBuf,
    /// The file that it is a copy of.
    pub origin: PathBuf,
    /// Made by `make_files.py`, and so there on every machine.
    pub made: bool,
    /// What file(1) says.
    pub file_mime: String,
}

/// A store with the blobs in it.
pub struct Corpus {
    pub store: Store,
    pub blobs: Vec<Blob>,
}

impl Corpus {
    pub fn blobids(&self) -> Vec<String> {
        self.blobs.iter().map(|blob| blob.blobid.clone()).collect()
    }
}

/// The shared corpus: 2,000 distinct files, those made here among them, and an empty one.
pub fn corpus() -> &'static Corpus {
    static CORPUS: OnceLock<Corpus> = OnceLock::new();
    CORPUS.get_or_init(|| {
        let store = Store::new();
        let mut origins = put_made_files(&store);
        let made: HashSet<String> = origins.iter().map(|(blobid, _)| blobid.clone()).collect();
        origins.extend(put_further(&store, SIZE - made.len(), made.clone()));
        origins.push((store.put(b""), PathBuf::from("/dev/null")));
        let paths: Vec<PathBuf> = origins
            .iter()
            .map(|(blobid, _)| store.path(blobid))
            .collect();
        let answers = file_mime(&paths);
        let blobs = origins
            .into_iter()
            .map(|(blobid, origin)| {
                let path = store.path(&blobid);
                let file_mime = answers[&path].clone();
                Blob {
                    made: made.contains(&blobid),
                    blobid,
                    path,
                    origin,
                    file_mime,
                }
            })
            .collect();
        Corpus { store, blobs }
    })
}

/// Makes files of many kinds and copies them into `store`: blobids and where they are from.
fn put_made_files(store: &Store) -> Vec<(String, PathBuf)> {
    let folder = scratch::folder("made");
    let status = Command::new("/usr/bin/python3")
        .args(["-c", include_str!("make_files.py")])
        .arg(&folder)
        .status()
        .expect("python3 is installed");
    assert!(status.success(), "make_files.py failed");
    let mut paths: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("our folder")
        .map(|entry| entry.expect("our folder").path())
        .collect();
    paths.sort();
    let mut seen = HashSet::new();
    paths
        .into_iter()
        .map(|path| (store.put(&fs::read(&path).expect("just made")), path))
        .filter(|(blobid, _)| seen.insert(blobid.clone()))
        .collect()
}

/// Copies `n` distinct files of this machine into `store`: blobids and where they are from.
pub fn put_system_files(store: &Store, n: usize) -> Vec<(String, PathBuf)> {
    put_further(store, n, HashSet::new())
}

/// The same, passing by content that has been `seen`.
fn put_further(store: &Store, n: usize, mut seen: HashSet<String>) -> Vec<(String, PathBuf)> {
    let mut groups: Vec<VecDeque<PathBuf>> = groups().into_values().map(by_size).collect();
    let mut chosen = Vec::with_capacity(n);
    // One of each kind, then a second of each, and so on: rare kinds are all in, frequent ones don't crowd them out.
    // The largest of a kind, then the smallest, and so on: what is longer than a head matters as much as the rest.
    for round in 0.. {
        if chosen.len() == n {
            break;
        }
        groups.retain(|group| !group.is_empty());
        assert!(
            !groups.is_empty(),
            "only {} suitable files on this machine, {n} are wanted",
            chosen.len()
        );
        for group in &mut groups {
            let path = if round % 2 == 0 {
                group.pop_back()
            } else {
                group.pop_front()
            };
            let Some(path) = path else { continue };
            // A file may be unreadable to us, or have gone since: take another one.
            let Ok(content) = fs::read(&path) else {
                continue;
            };
            let blobid = blobid_of(&content);
            if chosen.len() < n && !content.is_empty() && seen.insert(blobid.clone()) {
                store.put_as(&blobid, &content);
                chosen.push((blobid, path));
            }
        }
    }
    chosen
}

/// The files of a group, the smallest first.
fn by_size(mut group: Vec<PathBuf>) -> VecDeque<PathBuf> {
    group.sort_by_key(|path| fs::metadata(path).map_or(0, |meta| meta.len()));
    group.into()
}

/// Files by kind: the extension, or the folder for files without one.
fn groups() -> BTreeMap<String, Vec<PathBuf>> {
    let mut groups = BTreeMap::new();
    let mut todo: Vec<PathBuf> = FOLDERS.iter().map(PathBuf::from).collect();
    while let Some(folder) = todo.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        // Sorted, so that one machine always gives the same corpus.
        let mut entries: Vec<_> = entries.flatten().collect();
        entries.sort_by_key(|entry| entry.file_name());
        for entry in entries {
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() {
                todo.push(entry.path());
            } else if kind.is_file() {
                add(&mut groups, entry.path());
            }
        }
    }
    groups
}

fn add(groups: &mut BTreeMap<String, Vec<PathBuf>>, path: PathBuf) {
    let name = match (path.extension(), path.parent().and_then(Path::file_name)) {
        (Some(extension), _) => format!(".{}", extension.to_string_lossy()),
        (None, Some(folder)) => format!("{}/", folder.to_string_lossy()),
        (None, None) => return,
    };
    let group = groups.entry(name).or_default();
    // `file --files-from` takes one path a line; the copy has a plain name, but the origin is shown in failures.
    let suits = |path: &Path| fs::metadata(path).is_ok_and(|m| (1..=MAX_BYTES).contains(&m.len()));
    if group.len() < GROUP && suits(&path) {
        group.push(path);
    }
}
