//! The rows' material: real files with file(1)'s answers, and some blobids without a file.

use std::collections::HashMap;

use ntt_mime_integration::store::absent_blobid;
use ntt_mime_integration::{Session, corpus, inode};
use std::io::Write;
use std::path::PathBuf;

/// Blobids and their types; those without one can't be detected.
pub struct Material {
    pub blobs: Vec<(String, Option<String>)>,
    /// The store they are in.
    pub root: &'static str,
}

impl Material {
    /// The shared corpus, or `blobs` of it, a few blobs that are missing, and texts that are no blobids.
    pub fn new(blobs: Option<usize>) -> Material {
        let wanted = blobs.unwrap_or(usize::MAX);
        let corpus = corpus();
        let mut blobs: Vec<_> = corpus
            .blobs
            .iter()
            .map(|blob| (blob.blobid.clone(), Some(blob.file_mime.clone())))
            .collect();
        let mut rng = fastrand::Rng::with_seed(0);
        rng.shuffle(&mut blobs);
        blobs.truncate(wanted);
        let malformed = ["nonsense", "../../etc/passwd", ""].map(str::to_owned);
        let shouted = blobs[0].0.to_uppercase();
        let none = (0..4)
            .map(absent_blobid)
            .chain(malformed)
            .chain([shouted])
            .map(|blobid| (blobid, None));
        blobs.extend(none);
        rng.shuffle(&mut blobs);
        Material {
            blobs,
            root: corpus.store.root_str(),
        }
    }

    /// Leaves out what the detector itself calls otherwise than file(1): a handful of files on some machines, which
    /// `make accuracy` is about. Returns how many these are.
    pub fn keep_agreed(&mut self, s: &mut Session) -> usize {
        inode::load_source(s, &self.blobids());
        let known: HashMap<String, Option<String>> = s
            .query(
                "SELECT blobid, (ntt_inspect_blob(blobid)).mime_type FROM source",
                &[],
            )
            .expect("detects")
            .iter()
            .map(|row| (row.get(0), row.get(1)))
            .collect();
        let before = self.blobs.len();
        self.blobs.retain(|(blobid, mime)| known[blobid] == *mime);
        before - self.blobs.len()
    }

    /// Where a blob lies.
    pub fn path(&self, blobid: &str) -> PathBuf {
        corpus().store.path(blobid)
    }

    pub fn blobids(&self) -> Vec<String> {
        self.blobs
            .iter()
            .map(|(blobid, _)| blobid.clone())
            .collect()
    }

    /// Makes the table `truth`, with the right type of each blobid.
    pub fn load_truth(&self, s: &mut Session) {
        load_truth(
            s,
            self.blobs.iter().map(|(b, m)| (b.as_str(), m.as_deref())),
        );
    }
}

/// The same for blobids and types that the caller has.
pub fn load_truth<'b>(
    s: &mut Session,
    blobs: impl IntoIterator<Item = (&'b str, Option<&'b str>)>,
) {
    s.exec("CREATE TABLE truth (blobid text PRIMARY KEY, mime text)");
    let mut copy = s.copy_in("COPY truth FROM STDIN").expect("COPY starts");
    for (blobid, mime) in blobs {
        writeln!(copy, "{blobid}\t{}", mime.unwrap_or("\\N")).expect("COPY goes on");
    }
    copy.finish().expect("COPY ends");
}
