//! What a `RUN` that reads the secret does so that its tools trust larder's authorities: shell that puts them beside what
//! the container trusts already, in memory, and leads each tool there. A builder's other `RUN`s are told nothing of them.
//!
//! Tried with dash, bash and busybox; keytool 17.

use super::super::keystore::{self, Der};
use super::super::tools::overlay::own_directory;
use super::super::trust::{Kind, VARIABLES};
use crate::model::digest::Digest;

/// Where distributions keep what the system trusts: Debian and Alpine, Fedora, SUSE, BSDs.
const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem \
                      /etc/ssl/cert.pem";

/// The lines for a shell, which may stop at the first failure or unset variable. Empty: there is nothing to trust.
pub(super) fn script(larder: &[Der]) -> String {
    if larder.is_empty() {
        return String::new();
    }
    let name = Digest::of(&larder.concat()).to_string();
    let dir = format!("/dev/shm/larder-ca-{}", &name[..12]);
    // With some isolations a container's memory is the machine's.
    let mut lines = own_directory("larder_ca", &dir);
    for (at, one) in larder.iter().enumerate() {
        let pem = keystore::pem(std::slice::from_ref(one));
        lines.push_str(&format!("printf %s '{pem}' > \"$larder_ca/own-{at}.pem\" || :\n"));
    }
    lines.push_str(FUNCTIONS);
    lines.push_str(&format!(
        "larder_system=/dev/null\nfor larder_file in {SYSTEM}; do\n\
         if [ $larder_system = /dev/null ] && [ -s $larder_file ]; then larder_system=$larder_file; fi\ndone\n"
    ));
    for variable in &VARIABLES {
        let name = variable.name;
        lines.push_str(&match variable.kind {
            Kind::Instead => format!("larder_trust {name} $larder_system\n"),
            Kind::Beside => format!("larder_trust {name} /dev/null\n"),
            Kind::IfNamed => format!("if [ -n \"${{{name}:-}}\" ]; then larder_trust {name} /dev/null; fi\n"),
        });
    }
    lines + APT + JAVA
}

/// `larder_trust NAME FILE`: a bundle of what the variable names, else of the file, and larder's; files are named by what
/// they are made of, since a builder may have one memory for all containers.
const FUNCTIONS: &str = r#"larder_trust() {
eval "larder_base=\${$1:-}"
if [ ! -f "$larder_base" ]; then larder_base=$2; fi
larder_out=$larder_ca/$(cksum < "$larder_base" | tr ' ' -).pem
if [ ! -s "$larder_out" ]; then
{ cat "$larder_base"; echo; cat $larder_ca/own-*.pem; } > "$larder_out.$$" && chmod 644 "$larder_out.$$" && mv -f "$larder_out.$$" "$larder_out" || :
fi
if [ -s "$larder_out" ]; then export "$1=$larder_out"; fi
}
"#;

/// Before all other files, so that what those say stays.
const APT: &str = r##"if [ -d /etc/apt ] && [ "${APT_CONFIG:-}" != $larder_ca/apt.conf ]; then
{ if [ -n "${APT_CONFIG:-}" ]; then echo "#include \"$APT_CONFIG\";"; fi
echo "Acquire::https::CaInfo \"${SSL_CERT_FILE:-}\";"; } > $larder_ca/apt.conf && export APT_CONFIG=$larder_ca/apt.conf || :
fi
"##;

/// A store that the user names is left alone.
const JAVA: &str = r#"case "${JAVA_TOOL_OPTIONS:-}" in *trustStore*) ;; *)
if command -v keytool >/dev/null 2>&1; then
larder_java=${JAVA_HOME:-$(readlink -f "$(command -v keytool)" | sed 's,/bin/keytool$,,')}
for larder_file in "$larder_java/lib/security/cacerts" "$larder_java/jre/lib/security/cacerts"; do
if [ -s "$larder_file" ]; then
larder_out=$larder_ca/$(cksum < "$larder_file" | tr ' ' -).jks
if [ ! -s "$larder_out" ]; then
cp "$larder_file" "$larder_out.$$" && chmod 644 "$larder_out.$$" || :
for larder_base in $larder_ca/own-*.pem; do
keytool -importcert -noprompt -keystore "$larder_out.$$" -storepass changeit -alias "${larder_base##*/}" -file "$larder_base" >/dev/null 2>&1 || rm -f "$larder_out.$$"
done
mv -f "$larder_out.$$" "$larder_out" 2>/dev/null || :
fi
if [ -s "$larder_out" ]; then JAVA_TOOL_OPTIONS="${JAVA_TOOL_OPTIONS:+$JAVA_TOOL_OPTIONS }-Djavax.net.ssl.trustStore=$larder_out"; export JAVA_TOOL_OPTIONS; fi
break
fi
done
fi
esac
"#;

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::process::Command;

    use super::*;

    fn certificate(name: &str) -> Der {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.self_signed(&key).expect("a certificate").der().to_vec()
    }

    /// Sources the lines, with `dir` for memory, then runs more.
    fn said(shell: &str, dir: &Path, larder: &[Der], env: &[(&str, &str)], more: &str) -> String {
        let lines = script(larder).replace("/dev/shm", &dir.display().to_string());
        let script = dir.join("secret");
        std::fs::write(&script, lines).expect("a file");
        let text = format!("set -eu; . {0}; . {0}; {more}", script.display());
        let mut command = Command::new(shell);
        command.args(["-c", &text]).env_clear().env("PATH", "/usr/bin:/bin").envs(env.iter().copied());
        let output = command.output().expect("a shell");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && stderr.is_empty(), "{shell}: {stderr}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[test]
    fn a_container_trusts_what_it_trusted_and_larder() {
        let dir = tempfile::tempdir().expect("a directory");
        let (users, larder) = (certificate("users.example"), certificate("larder.example"));
        let own = dir.path().join("users.pem");
        let text = |one: &Der| keystore::pem(std::slice::from_ref(one));
        std::fs::write(&own, text(&users)).expect("a file");
        let own = own.display().to_string();
        let env = [("CURL_CA_BUNDLE", &*own), ("npm_config_cafile", &*own)];
        let line = "cat \"$CURL_CA_BUNDLE\" \"$npm_config_cafile\"; echo; echo; cat \"$NODE_EXTRA_CA_CERTS\"";
        for shell in ["sh", "bash"] {
            let said = said(shell, dir.path(), std::slice::from_ref(&larder), &env, line);
            assert!(said.matches(text(&users).trim()).count() >= 2, "{said}");
            let (_, extra) = said.split_once("\n\n\n").expect("both");
            assert!(extra.contains(text(&larder).trim()) && !extra.contains(text(&users).trim()), "{extra}");
        }
    }

    #[test]
    fn without_an_authority_nothing_is_said() {
        assert_eq!(script(&[]), "");
    }
}
