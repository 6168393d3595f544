use super::*;
use std::collections::HashMap;

fn zeroed(n: usize) -> (CacheHeader, Vec<Slot>) {
    let slots = (0..n).map(|_| Slot::default()).collect();
    (CacheHeader::new().unwrap(), slots)
}

fn used(header: &CacheHeader) -> u64 {
    header.used.load(Ordering::Relaxed)
}

fn id(n: u64) -> BlobId {
    let mut bytes = [0; 32];
    bytes[24..].copy_from_slice(&n.to_be_bytes());
    BlobId::from_bytes(bytes)
}

#[test]
fn a_blob_is_claimed_once_and_then_known() {
    let (header, slots) = zeroed(100);
    let cache = RunCache::new(&header, &slots);
    let Lookup::Claimed(at) = cache.claim(&id(1)) else {
        panic!("first meeting must claim");
    };
    assert_eq!(cache.claim(&id(1)), Lookup::Busy(at));
    let outcome = Outcome::Mime(MimeId::from_index(7));
    cache.resolve(at, outcome);
    assert_eq!(cache.claim(&id(1)), Lookup::Known(outcome));
    assert_eq!(used(&header), 1);
}

#[test]
fn failures_are_outcomes_too() {
    let (header, slots) = zeroed(10);
    let cache = RunCache::new(&header, &slots);
    for (n, reason) in FailureReason::ALL.iter().enumerate() {
        let Lookup::Claimed(at) = cache.claim(&id(n as u64)) else {
            panic!("first meeting must claim");
        };
        cache.resolve(at, Outcome::Failed(*reason));
        let known = Lookup::Known(Outcome::Failed(*reason));
        assert_eq!(cache.claim(&id(n as u64)), known);
    }
}

#[test]
fn a_claim_given_back_is_taken_over_once() {
    let (header, slots) = zeroed(10);
    let cache = RunCache::new(&header, &slots);
    let Lookup::Claimed(at) = cache.claim(&id(5)) else {
        panic!("first meeting must claim");
    };
    assert_eq!(cache.poll(at), Lookup::Busy(at));
    cache.release(at);
    assert_eq!(cache.poll(at), Lookup::Reclaimed(at));
    assert_eq!(cache.claim(&id(5)), Lookup::Busy(at));
    assert_eq!(used(&header), 1);
}

#[test]
fn a_full_cache_says_so_and_keeps_what_it_has() {
    let (header, slots) = zeroed(20);
    let cache = RunCache::new(&header, &slots);
    let mut claimed = 0;
    for n in 0..1000 {
        match cache.claim(&id(n)) {
            Lookup::Claimed(at) => {
                cache.resolve(at, Outcome::Mime(MimeId::from_index(n as u16)));
                claimed += 1;
            }
            Lookup::Full => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(claimed, 17); // 85 % of 20
    for n in 0..17 {
        let known = Lookup::Known(Outcome::Mime(MimeId::from_index(n as u16)));
        assert_eq!(cache.claim(&id(n)), known);
    }
    let none: [Slot; 0] = [];
    assert_eq!(RunCache::new(&header, &none).claim(&id(1)), Lookup::Full);
}

#[test]
fn concurrent_workers_claim_each_blob_exactly_once() {
    const BLOBS: u64 = 20_000;
    let (header, slots) = zeroed(30_000);
    let claims: Vec<HashMap<u64, u16>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..8u16)
            .map(|worker| {
                let (header, slots) = (&header, &slots);
                scope.spawn(move || {
                    let cache = RunCache::new(header, slots);
                    let mut mine = HashMap::new();
                    for step in 0..BLOBS {
                        // Different orders, so that workers collide everywhere.
                        let n = (step * (2 * u64::from(worker) + 1)) % BLOBS;
                        match cache.claim(&id(n)) {
                            Lookup::Claimed(at) => {
                                mine.insert(n, worker);
                                let outcome = Outcome::Mime(MimeId::from_index(n as u16));
                                cache.resolve(at, outcome);
                            }
                            Lookup::Known(outcome) => {
                                let right = Outcome::Mime(MimeId::from_index(n as u16));
                                assert_eq!(outcome, right);
                            }
                            Lookup::Busy(_) => {}
                            other => panic!("unexpected {other:?}"),
                        }
                    }
                    mine
                })
            })
            .collect();
        handles.into_iter().map(|h| h.join().unwrap()).collect()
    });
    let total: usize = claims.iter().map(HashMap::len).sum();
    let mut all = HashMap::new();
    claims.into_iter().for_each(|mine| all.extend(mine));
    assert_eq!(total, BLOBS as usize);
    assert_eq!(all.len(), BLOBS as usize);
    assert_eq!(used(&header), BLOBS);
}
