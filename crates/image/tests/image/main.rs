//! Tests of the image formats through the public interface.

mod codecs;
mod hostile;
mod layers;
mod messages;
mod pagemaps;
mod pages;
mod sets;
mod support;
