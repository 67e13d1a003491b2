//! SCRAM-SHA-256 verifiers (RFC 5802, 7677, 5803), in the form that PostgreSQL keeps them in:
//! `SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey`. With one a server can check a password and show that it
//! knows of it; nobody can log in with it. Main function: [`verifier`].
//!
//! The salt is derived from the password and an object's id, so that the same password gives the same text at every
//! deploy. It is derived as slowly as the keys are: guessing through the salt is no cheaper than through them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Rounds of hashing, as PostgreSQL takes where nobody says.
pub const ITERATIONS: u32 = 4096;
const MECHANISM: &str = "SCRAM-SHA-256";
const SALT: usize = 16;

/// The verifier of a password for an object.
pub fn verifier(password: &str, id: &str, iterations: u32) -> String {
    let password = prepared(password);
    let mut salt = [0_u8; SALT];
    let tied = format!("olbake verifier 1 {id}");
    pbkdf2::pbkdf2_hmac::<Sha256>(password.as_bytes(), tied.as_bytes(), iterations, &mut salt);
    Keys::of(&password, &salt, iterations).text(&salt, iterations)
}

/// Whether a verifier is one of a password, whoever made it and with whatever salt.
pub fn is_of(verifier: &str, password: &str) -> bool {
    let Some((salt, iterations)) = salt_and_iterations(verifier) else { return false };
    Keys::of(&prepared(password), &salt, iterations).text(&salt, iterations) == verifier
}

struct Keys {
    stored: [u8; 32],
    server: [u8; 32],
}

impl Keys {
    fn of(prepared: &str, salt: &[u8], iterations: u32) -> Self {
        let mut salted = Zeroizing::new([0_u8; 32]);
        pbkdf2::pbkdf2_hmac::<Sha256>(prepared.as_bytes(), salt, iterations, &mut *salted);
        let client = Zeroizing::new(mac(&*salted, b"Client Key"));
        Self { stored: Sha256::digest(*client).into(), server: mac(&*salted, b"Server Key") }
    }

    fn text(&self, salt: &[u8], iterations: u32) -> String {
        let Self { stored, server } = self;
        let (salt, stored, server) =
            (STANDARD.encode(salt), STANDARD.encode(stored), STANDARD.encode(server));
        format!("{MECHANISM}${iterations}:{salt}${stored}:{server}")
    }
}

fn mac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

/// A password as it is hashed: by SASLprep, and as it is where that refuses it. So do PostgreSQL and its clients.
fn prepared(password: &str) -> Zeroizing<String> {
    Zeroizing::new(stringprep::saslprep(password).map_or_else(|_| password.to_owned(), Into::into))
}

fn salt_and_iterations(verifier: &str) -> Option<(Vec<u8>, u32)> {
    let rest = verifier.strip_prefix(MECHANISM)?.strip_prefix('$')?;
    let (iterations, salt) = rest.split_once('$')?.0.split_once(':')?;
    Some((STANDARD.decode(salt).ok()?, iterations.parse().ok().filter(|iterations| *iterations > 0)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 7677, section 3: `user` logs in with `pencil`.
    const SALT: &str = "W22ZaJ0SNY7soEsUEjb6gQ==";
    const MESSAGE: &str = "n=user,r=rOprNGfwEbeRWgbNEkqO,\
        r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,\
        c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const PROOF: &str = "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SIGNATURE: &str = "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn example() -> (Vec<u8>, Keys) {
        let salt = STANDARD.decode(SALT).unwrap();
        let keys = Keys::of("pencil", &salt, 4096);
        (salt, keys)
    }

    #[test]
    fn the_keys_accept_the_proof_of_the_rfc() {
        let (_, keys) = example();
        let proof = STANDARD.decode(PROOF).unwrap();
        let client: Vec<u8> =
            mac(&keys.stored, MESSAGE.as_bytes()).iter().zip(proof).map(|(a, b)| a ^ b).collect();
        assert_eq!(Sha256::digest(client).as_slice(), keys.stored);
    }

    #[test]
    fn the_keys_give_the_signature_of_the_rfc() {
        let (_, keys) = example();
        assert_eq!(STANDARD.encode(mac(&keys.server, MESSAGE.as_bytes())), SIGNATURE);
    }

    #[test]
    fn a_verifier_is_of_its_password_only() {
        let (salt, keys) = example();
        let text = keys.text(&salt, 4096);
        assert!(text.starts_with("SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$"));
        assert!(is_of(&text, "pencil"));
        for (verifier, password) in [(text.as_str(), "pencils"), ("md5abc", "pencil"), ("", "pencil")] {
            assert!(!is_of(verifier, password), "{verifier} {password}");
        }
        assert!(!is_of("SCRAM-SHA-256$0:W22ZaJ0SNY7soEsUEjb6gQ==$a:b", "pencil"));
    }

    #[test]
    fn salts_stay_and_differ_by_object_and_password() {
        let of = |password, id| verifier(password, id, 4096);
        assert_eq!(of("correct horse battery", "admin-1"), of("correct horse battery", "admin-1"));
        let salt = |text: String| text.split('$').nth(1).unwrap().to_owned();
        assert_ne!(
            salt(of("correct horse battery", "admin-1")),
            salt(of("correct horse battery", "admin-2"))
        );
        assert_ne!(salt(of("correct horse battery", "admin-1")), salt(of("another horse, later", "admin-1")));
        assert!(is_of(&of("correct horse battery", "admin-1"), "correct horse battery"));
    }

    #[test]
    fn passwords_are_prepared_as_servers_do() {
        assert_eq!(*prepared("I\u{ad}X"), "IX");
        assert_eq!(*prepared("\u{7}bell"), "\u{7}bell");
    }
}
