//! Which values are secrets: never printed, in no message, snippet or printed configuration.
//!
//! Decided by the key, while the file is being read, so that a value is already known to be secret when the very
//! line it stands in is wrong. A list of keys errs on the side of silence: a hidden harmless value costs a look
//! into the file, a shown token costs a token.

/// Everything under such a key is secret, at any depth.
pub(super) fn is_sensitive(key: &str) -> bool {
    const PARTS: [&str; 12] = [
        "headers",
        "password",
        "passwd",
        "secret",
        "token",
        "authorization",
        "api_key",
        "api-key",
        "apikey",
        "credential",
        "cookie",
        "_pem",
    ];
    let key = key.to_ascii_lowercase();
    PARTS.iter().any(|part| key.contains(part))
}

/// A URL with a user and password in it.
pub(super) fn has_credentials(text: &str) -> bool {
    text.split_once("://").is_some_and(|(_, rest)| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
        authority.contains('@')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_hold_secrets_are_told_from_keys_that_hold_paths() {
        for key in ["headers", "Authorization", "x-api-key", "bearer_token", "client_secret", "key_pem"] {
            assert!(is_sensitive(key), "{key}");
        }
        for key in ["key_file", "cert_file", "key", "endpoint", "value"] {
            assert!(!is_sensitive(key), "{key}");
        }
        assert!(has_credentials("https://me:pw@host/path"));
        assert!(!has_credentials("https://host/@path"));
    }
}
