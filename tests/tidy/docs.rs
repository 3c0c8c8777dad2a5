//! Pages that list things are made from the things, by the binary itself: `larder docs`.

use std::process::Command;

use crate::tree::root;

#[test]
fn generated_pages_are_current() {
    let checked = Command::new(env!("CARGO_BIN_EXE_larder")).args(["docs", "--check"]).current_dir(root()).output();
    let output = checked.expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
