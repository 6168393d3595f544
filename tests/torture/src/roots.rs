//! The store in two parts: a root that stays, and one that is mounted and can be taken away.

use std::fs;
use std::io;

use ntt_mime_integration::Store;

use crate::isolation::Bind;
use crate::material::Material;

pub struct TwoRoots {
    stays: Store,
    /// What is mounted, where it always is.
    _other: Store,
    mounted: Bind,
}

impl TwoRoots {
    /// Every other blob lies in the one, the rest in the other.
    pub fn new(material: &Material) -> io::Result<TwoRoots> {
        let (stays, other) = (Store::new(), Store::new());
        let there = material.blobs.iter().filter(|(_, mime)| mime.is_some());
        for (number, (blobid, _)) in there.enumerate() {
            let store = if number % 2 == 0 { &stays } else { &other };
            fs::hard_link(material.path(blobid), store.place(blobid))?;
        }
        let mounted = Bind::new(other.root())?;
        Ok(TwoRoots {
            stays,
            _other: other,
            mounted,
        })
    }

    /// `ntt_mime.blob_root` for both.
    pub fn setting(&self) -> String {
        format!(
            "{}:{}",
            self.stays.root_str(),
            self.mounted.path().display()
        )
    }

    pub fn mounted(&self) -> &Bind {
        &self.mounted
    }
}
