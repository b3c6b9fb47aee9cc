//! Bodies of the fuzz targets (the folder `fuzz`), which tests run too, with bounded random input. Each one panics when it
//! finds something wrong.

mod proxy;
mod source;
mod websocket;

use source::Source;

/// A fuzz target: its name, which is also that of its folders of inputs, and its body.
type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[("proxy", proxy::any_header), ("websocket", websocket::any_client)];

/// Runs a target by its name.
pub fn run(target: &str, data: &[u8]) {
    let (_, body) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target of `TARGETS`");
    body(data);
}

#[cfg(test)]
mod tests;
