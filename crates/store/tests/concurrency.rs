//! Several commands at once on one store.

mod common;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use cryopod_store::{Error, Replace, Store};

/// How many threads contend.
const THREADS: usize = 4;
/// How often they do.
const ROUNDS: usize = 40;

#[test]
fn of_many_that_publish_one_name_exactly_one_wins() {
    let scratch = Scratch::new();
    for round in 0..ROUNDS {
        let at = format!("web:v{round}");
        let start = Barrier::new(THREADS);
        let results: Vec<_> = std::thread::scope(|scope| {
            let one = || {
                // Each with its own open store, as commands have.
                let store = Store::open(scratch.store.path()).unwrap();
                let staging = std::panic::catch_unwind(|| stage(&store));
                let meta = meta(&at);
                // Whatever happened: the others wait for this one.
                start.wait();
                staging
                    .unwrap()
                    .publish(&meta, &meta.label, &meta.name, Replace::No)
            };
            let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(one)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        let winners: Vec<_> = results
            .iter()
            .filter_map(|result| result.as_ref().ok())
            .collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        assert_eq!(&scratch.store.get(&reference(&at)).unwrap(), winners[0]);
        let lost = |result: &&Result<_, Error>| matches!(result, Err(Error::Exists { .. }));
        assert_eq!(
            results.iter().filter(lost).count(),
            THREADS - 1,
            "{results:?}"
        );
    }
    assert_eq!(left_in_tmp(&scratch.store), 0);
}

#[test]
fn a_reader_always_finds_what_is_being_replaced() {
    let scratch = Scratch::new();
    publish(&scratch.store, "web:v1", Replace::No).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for at in ["web:v1", "web"] {
            let (store, done) = (&scratch.store, &done);
            scope.spawn(move || {
                let mut last = None;
                while !done.load(Ordering::Relaxed) {
                    let stored = store.get(&reference(at)).unwrap();
                    assert!(last <= Some(stored.meta.created), "an older one came back");
                    last = Some(stored.meta.created);
                }
            });
        }
        let writer = scope.spawn(|| {
            for _ in 0..ROUNDS * 5 {
                publish(&scratch.store, "web:v1", Replace::Yes).unwrap();
            }
        });
        let result = writer.join();
        done.store(true, Ordering::Relaxed);
        result.unwrap();
    });
    assert_eq!(left_in_tmp(&scratch.store), 0);
}

#[test]
fn a_label_that_is_never_empty_always_has_a_newest() {
    let scratch = Scratch::new();
    let store = &scratch.store;
    publish(store, "web:v0", Replace::No).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                store.newest(&label("web")).unwrap();
            }
        });
        let writer = scope.spawn(|| {
            for round in 0..ROUNDS * 5 {
                publish(store, &format!("web:v{}", round + 1), Replace::No).unwrap();
                store.remove(&reference(&format!("web:v{round}"))).unwrap();
            }
        });
        let result = writer.join();
        done.store(true, Ordering::Relaxed);
        result.unwrap();
    });
}

#[test]
fn several_that_replace_one_name_leave_one() {
    let scratch = Scratch::new();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    publish(&scratch.store, "web:v1", Replace::Yes).unwrap();
                }
            });
        }
    });
    assert_eq!(listed(&scratch.store), ["web:v1"]);
    assert_eq!(left_in_tmp(&scratch.store), 0);
}

#[test]
fn a_label_that_comes_and_goes_is_no_obstacle() {
    let scratch = Scratch::new();
    let store = &scratch.store;
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let at = format!("web:v{thread}");
                for _ in 0..ROUNDS {
                    publish(store, &at, Replace::No).unwrap();
                    store
                        .list(None)
                        .unwrap()
                        .iter()
                        .for_each(|entry| assert!(entry.stored().is_some(), "{entry:?}"));
                    store.remove(&reference(&at)).unwrap();
                }
            });
        }
    });
    assert!(listed(store).is_empty());
    assert!(!store.path().join("checkpoints/web").exists());
    assert_eq!(left_in_tmp(store), 0);
}

#[test]
fn no_sweep_takes_what_is_being_made() {
    let scratch = Scratch::new();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    Store::open(scratch.store.path()).unwrap();
                }
            });
        }
        let writer = scope.spawn(|| {
            for _ in 0..ROUNDS * 5 {
                publish(&scratch.store, "web:v1", Replace::Yes).unwrap();
            }
            // The moment between creating and locking is short: it takes many to meet it.
            for _ in 0..ROUNDS * 25 {
                assert!(scratch.store.stage().unwrap().images().exists());
            }
        });
        let result = writer.join();
        done.store(true, Ordering::Relaxed);
        result.unwrap();
    });
    assert_eq!(listed(&scratch.store), ["web:v1"]);
}
