-- The archive's indexes beside the primary key, as on the live system; demo, benchmark and tests share them.

CREATE INDEX ON inode (by_hash_created) WHERE by_hash_created = false;
CREATE INDEX ON inode (fs_type, copied) WHERE fs_type = 'f' AND copied = false;
CREATE INDEX ON inode (fs_type, copied) WHERE fs_type = 'f' AND copied = true;
CREATE INDEX ON inode (fs_type);
CREATE INDEX ON inode (blobid) WHERE blobid IS NOT NULL;
CREATE INDEX ON inode (mime_type);
CREATE INDEX ON inode (processed_at) WHERE processed_at IS NOT NULL;
CREATE INDEX ON inode (processed_at DESC) WHERE copied = true;
CREATE INDEX ON inode (claimed_at) WHERE copied = false AND claimed_by IS NULL;
CREATE INDEX ON inode (medium_hash, ino) WHERE copied = false AND claimed_by IS NULL;
