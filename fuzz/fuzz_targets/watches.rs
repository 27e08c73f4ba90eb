//! Where older dumps keep watches of epoll, inotify and fanotify.
#![no_main]

use cryopod_fuzz::parse_bodies;
use cryopod_image::Kind;

libfuzzer_sys::fuzz_target!(|body: &[u8]| parse_bodies(
    &[
        Kind::EventpollTfd,
        Kind::InotifyWd,
        Kind::FanotifyMark,
        Kind::IrmapCache
    ],
    body
));
