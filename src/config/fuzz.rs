//! Entry for the fuzz targets: configuration files.

use super::print::in_force;

/// What was read is shown so that it reads back the same; what is refused is refused in one line.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match super::parse("larder.toml", text) {
        Ok(config) => {
            let shown = in_force(&config).expect("what was read can be shown");
            let again = super::parse("shown.toml", &shown).unwrap_or_else(|error| panic!("{error}\n{shown}"));
            assert_eq!(in_force(&again).expect("as before"), shown);
        }
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
}
