//! Which shape of requests and answers a path has.

use crate::base::named::named;

named! {
    /// The compatible doors.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Shape: name, ALL {
        /// `/emails` and what is below.
        Emails = "emails",
        /// `/email` and `/email/batch`.
        Email = "email",
        /// `/v3/mail/send`.
        MailSend = "mail_send",
    }
}

impl Shape {
    /// The door of this name.
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|shape| shape.name() == name)
    }

    /// Of a path in which no slash is repeated.
    pub(super) fn of(path: &str) -> Option<Self> {
        let mut segments = path.strip_prefix('/')?.split('/');
        match (segments.next()?, segments.next(), segments.next()) {
            ("emails", _, _) => Some(Self::Emails),
            ("email", None | Some("batch"), None) => Some(Self::Email),
            ("v3", Some("mail"), Some("send")) => Some(Self::MailSend),
            _ => None,
        }
    }
}

/// A path in which each run of slashes is one; none if it is so already.
pub(super) fn without_repeated_slashes(path: &str) -> Option<String> {
    if !path.contains("//") {
        return None;
    }
    let mut plain = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !plain.ends_with('/') {
            plain.push(character);
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_their_shapes() {
        let check = |path: &str, expected: Option<Shape>| assert_eq!(Shape::of(path), expected, "{path}");
        check("/emails", Some(Shape::Emails));
        check("/emails/01/cancel", Some(Shape::Emails));
        check("/email", Some(Shape::Email));
        check("/email/batch", Some(Shape::Email));
        check("/email/other", None);
        check("/v3/mail/send", Some(Shape::MailSend));
        check("/v3/mail", None);
        check("/v1/messages", None);
        check("/", None);
        assert_eq!(without_repeated_slashes("//emails///batch").as_deref(), Some("/emails/batch"));
        assert_eq!(without_repeated_slashes("/emails/"), None);
        for shape in Shape::ALL {
            assert_eq!(Shape::by_name(shape.name()), Some(shape));
        }
    }
}
