//! Bodies and proofs as the three servers send them.

use aws_lc_rs::hmac::{self, HMAC_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;

const NOW: u64 = 1_795_255_200;

fn now() -> Timestamp {
    Timestamp::from_millis(NOW * 1000)
}

fn mac(secret: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(HMAC_SHA256, secret), &parts.concat()).as_ref().to_vec()
}

fn headers(fields: &[(&'static str, String)]) -> HeaderMap {
    fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

fn holds(kind: Kind, file: &str, fields: &[(&'static str, String)], body: &[u8]) -> bool {
    proof::holds(kind, &Secrets::read(kind, file).unwrap(), &headers(fields), body, now())
}

#[test]
fn standard_webhooks_are_believed_within_five_minutes() {
    let secret = b"0123456789abcdef01234567";
    let file = format!("v1,whsec_{}\n", STANDARD.encode(secret));
    let other = format!("v1,whsec_{}\n", STANDARD.encode(b"another secret that is long"));
    let body = br#"{"user":{}}"#;
    let signed =
        |at: u64, body: &[u8]| STANDARD.encode(mac(secret, &[b"msg_1.", at.to_string().as_bytes(), b".", body]));
    let fields = |at: u64, signature: String| {
        [("webhook-id", "msg_1".to_owned()), ("webhook-timestamp", at.to_string()), ("webhook-signature", signature)]
    };
    let check = |file: &str, at: u64, signature: String| holds(Kind::Supabase, file, &fields(at, signature), body);
    let right = signed(NOW, body);
    let wrong = STANDARD.encode([7; 32]);
    for signature in [
        format!("v1,{right}"),
        format!("v1,{wrong} v1,{right}"),
        format!("v1,{wrong}, v1,{right}"),
        format!("v1,{wrong},v1,{right}"),
        format!("v1a,{wrong} v1,{right}"),
    ] {
        assert!(check(&file, NOW, signature.clone()), "{signature}");
    }
    assert!(check(&format!("{other}{file}"), NOW, format!("v1,{right}")), "either secret, while it is being changed");
    assert!(check(&file.replace("v1,", ""), NOW, format!("v1,{right}")));
    for (at, expected) in [(NOW - 300, true), (NOW + 300, true), (NOW - 301, false), (NOW + 301, false), (0, false)] {
        assert_eq!(check(&file, at, format!("v1,{}", signed(at, body))), expected, "{at}");
    }
    for signature in ["", "v1", "v1,", &right, &format!("v1 a{right}"), &format!("v1a,{right}"), &format!("v1,{wrong}")]
    {
        assert!(!check(&file, NOW, (*signature).to_owned()), "{signature}");
    }
    assert!(!check(&other, NOW, format!("v1,{right}")));
    assert!(!check(&file, NOW, format!("v1,{}", signed(NOW, b"{}"))), "another body");
    let many = format!("{} v1,{right}", format!("v1,{wrong} ").repeat(200));
    assert!(!check(&file, NOW, many), "more than are looked at");
    assert!(!holds(Kind::Supabase, &file, &fields(NOW, format!("v1,{right}"))[1..], body));
}

#[test]
fn zitadel_signatures_are_believed_within_five_minutes() {
    let hex = |octets: &[u8]| octets.iter().map(|octet| format!("{octet:02x}")).collect::<String>();
    let (key, body) = ("signing-key-1", br#"{"contextInfo":{}}"#);
    let signed = |at: u64| hex(&mac(key.as_bytes(), &[at.to_string().as_bytes(), b".", body]));
    let check = |field: String| holds(Kind::Zitadel, key, &[("zitadel-signature", field)], body);
    let right = signed(NOW);
    let wrong = "00".repeat(32);
    for field in
        [format!("t={NOW},v1={right}"), format!("t={NOW},v1={wrong},v1={right}"), format!("v1={right}, t={NOW}")]
    {
        assert!(check(field.clone()), "{field}");
    }
    assert!(check(format!("t={},v1={}", NOW - 300, signed(NOW - 300))));
    for field in [
        format!("t={},v1={}", NOW - 301, signed(NOW - 301)),
        format!("t={NOW},v1={wrong}"),
        format!("t={NOW},v0={right}"),
        format!("v1={right}"),
        format!("t={NOW},t={NOW},v1={right}"),
        format!("t={NOW},v1={}", &right[..62]),
        format!("t=+{NOW},v1={right}"),
        "t=99999999999999999999,v1=00".to_owned(),
        String::new(),
    ] {
        assert!(!check(field.clone()), "{field}");
    }
}

#[test]
fn logto_shows_the_value_itself() {
    let check =
        |value: &str| holds(Kind::Logto, "Bearer 7f3a7f3a\nold-value-1\n", &[("authorization", value.to_owned())], b"");
    assert!(check("Bearer 7f3a7f3a") && check("old-value-1"));
    assert!(!check("Bearer 7f3a7f3b") && !check("") && !check("Bearer 7f3a7f3a\told-value-1"));
    assert!(!holds(Kind::Logto, "Bearer 7f3a7f3a", &[], b""));
}

#[test]
fn secrets_are_read_or_refused() {
    for (kind, text) in [
        (Kind::Supabase, ""),
        (Kind::Supabase, "whsec"),
        (Kind::Supabase, "v1,whsec_!!"),
        (Kind::Supabase, "v1,whsec_YQ=="),
        (Kind::Logto, "short"),
        (Kind::Zitadel, " \n "),
        (Kind::Zitadel, &"x\n".repeat(9)),
    ] {
        assert!(Secrets::read(kind, text).is_err(), "{text}");
    }
    let secrets = Secrets::read(Kind::Logto, "Bearer 7f3a7f3a").unwrap();
    assert!(!format!("{secrets:?}").contains("7f3a"));
}

fn read(kind: Kind, body: serde_json::Value) -> Vec<HookMail> {
    kind.read(body.to_string().as_bytes()).unwrap_or_else(|problem| panic!("{problem:?}"))
}

fn supabase(action: &str, data: serde_json::Value) -> serde_json::Value {
    let mut email_data = serde_json::json!({
        "token": "481516", "token_hash": "7d5b7b1964cf5d388340a7f04f1dbb5eeb6c7b52ef8270e1737a58d0",
        "redirect_to": "http://localhost:3000/?a=1&b=2", "email_action_type": action,
        "site_url": "https://auth.app.test/auth/v1", "token_new": "", "token_hash_new": "",
        "old_email": "", "old_phone": "", "provider": "", "factor_type": "",
    });
    email_data.as_object_mut().unwrap().extend(data.as_object().unwrap().clone());
    serde_json::json!({
        "metadata": {"uuid": "8484b834-f29e-4af2-bf42-80644d154f76", "time": "2026-11-21T10:00:00Z",
            "name": "send-email", "ip_address": "192.0.2.7"},
        "user": {"id": "8484b834-f29e-4af2-bf42-80644d154f76", "aud": "authenticated", "role": "authenticated",
            "email": "alice@example.test", "new_email": "new@example.test", "phone": "", "app_metadata": {"provider": "email"},
            "user_metadata": {"locale": "de-AT", "sub": "8484"}, "identities": [], "is_anonymous": false},
        "email_data": email_data,
    })
}

#[test]
fn supabase_asks_for_each_kind_of_mail() {
    for (action, lane, purpose) in [
        ("signup", Lane::Otp, Purpose::Signup),
        ("magiclink", Lane::Otp, Purpose::Login),
        ("email", Lane::Otp, Purpose::Login),
        ("reauthentication", Lane::Otp, Purpose::Confirm),
        ("recovery", Lane::Reset, Purpose::Reset),
        ("invite", Lane::Reset, Purpose::Invite),
        ("something_new", Lane::Otp, Purpose::Confirm),
    ] {
        let wanted = read(Kind::Supabase, supabase(action, serde_json::json!({})));
        let [one] = wanted.as_slice() else { panic!("{wanted:?}") };
        assert_eq!((one.lane, one.purpose, &*one.tag), (lane, purpose, action));
        assert_eq!((one.to.as_str(), one.locale.as_deref()), ("alice@example.test", Some("de-AT")));
        assert_eq!(one.code.as_ref().map(|code| code.as_str()), Some("481516"));
        let link = one.link.as_deref().unwrap();
        let action = action.replace('_', "%5F");
        let expected = format!(
            "https://auth.app.test/auth/v1/verify?token=7d5b7b1964cf5d388340a7f04f1dbb5eeb6c7b52ef8270e1737a58d0&type={action}\
             &redirect_to=http%3A%2F%2Flocalhost%3A3000%2F%3Fa%3D1%26b%3D2"
        );
        assert_eq!(link, expected);
    }
    let nothing = serde_json::json!({"token": "", "token_hash": ""});
    for (action, purpose) in [
        ("password_changed_notification", Purpose::PasswordChanged),
        ("email_changed_notification", Purpose::EmailChanged),
        ("mfa_factor_enrolled_notification", Purpose::AccountChanged),
    ] {
        let wanted = read(Kind::Supabase, supabase(action, nothing.clone()));
        assert_eq!((wanted[0].lane, wanted[0].purpose, wanted[0].link.is_none()), (Lane::Notice, purpose, true));
    }
    assert!(Kind::Supabase.read(supabase("signup", nothing).to_string().as_bytes()).is_err());
}

#[test]
fn a_change_of_address_is_confirmed_at_both() {
    let both = serde_json::json!({"token": "111111", "token_new": "222222", "token_hash": "for-new", "token_hash_new": "for-old"});
    let wanted = read(Kind::Supabase, supabase("email_change", both));
    let told: Vec<(&str, &str, bool)> = wanted
        .iter()
        .map(|one| {
            (one.to.as_str(), one.code.as_ref().unwrap().as_str(), one.link.as_deref().unwrap().contains("for%2Dold"))
        })
        .collect();
    assert_eq!(told, [("alice@example.test", "111111", true), ("new@example.test", "222222", false)]);
    assert!(wanted[1].link.as_deref().unwrap().contains("for%2Dnew"));
    for one in [serde_json::json!({"token": "333333"}), serde_json::json!({"token": "", "token_new": "333333"})] {
        let wanted = read(Kind::Supabase, supabase("email_change", one));
        assert_eq!((wanted.len(), wanted[0].to.as_str()), (1, "new@example.test"));
        assert_eq!(wanted[0].code.as_ref().unwrap().as_str(), "333333");
    }
}

#[test]
fn logto_asks_for_each_kind_of_mail() {
    let call = |kind: &str, payload: serde_json::Value| serde_json::json!({"to": "alice@example.test", "type": kind, "payload": payload, "ip": "192.0.2.7"});
    for (kind, lane, purpose) in [
        ("SignIn", Lane::Otp, Purpose::Login),
        ("Register", Lane::Otp, Purpose::Signup),
        ("MfaVerification", Lane::Otp, Purpose::Confirm),
        ("Generic", Lane::Otp, Purpose::Confirm),
        ("ForgotPassword", Lane::Reset, Purpose::Reset),
    ] {
        let payload =
            serde_json::json!({"code": "481516", "locale": "fr", "uiLocales": "fr de", "application": {"id": "x"}});
        let wanted = read(Kind::Logto, call(kind, payload));
        assert_eq!((wanted[0].lane, wanted[0].purpose, wanted[0].locale.as_deref()), (lane, purpose, Some("fr")));
    }
    let link = serde_json::json!({"link": "https://app.test/invite?token=1"});
    let wanted = read(Kind::Logto, call("OrganizationInvitation", link));
    assert_eq!((wanted[0].lane, wanted[0].code.is_none()), (Lane::Reset, true));
    for body in [
        call("SignIn", serde_json::json!({})),
        call("SignIn", serde_json::json!({"code": "48\u{7}1516"})),
        call("OrganizationInvitation", serde_json::json!({"link": "javascript:alert(1)"})),
        serde_json::json!({"to": "+4312345", "type": "SignIn", "payload": {"code": "481516"}}),
        serde_json::json!({"type": "SignIn", "payload": {"code": "481516"}}),
        serde_json::json!([]),
    ] {
        assert!(Kind::Logto.read(body.to_string().as_bytes()).is_err(), "{body}");
    }
}

#[test]
fn zitadel_brings_texts_of_its_own() {
    let call = |event: &str, args: serde_json::Value| {
        serde_json::json!({
            "contextInfo": {"eventType": event, "provider": {"id": "285181292935381355", "description": "relay"},
                "recipientEmailAddress": "alice@example.test"},
            "templateData": {"title": "Zitadel - E-Mail verifizieren", "preHeader": "E-Mail verifizieren",
                "subject": "E-Mail verifizieren", "greeting": "Hallo Alice,",
                "text": "Eine neue E-Mail wurde hinzugef\u{fc}gt.<br>(Code <strong>481516</strong>) a < b &amp; c",
                "url": "https://auth.app.test/ui/v2/login/verify?userId=1&code=481516", "buttonText": "E-Mail verifizieren",
                "primaryColor": "#5469d4", "logoUrl": "https://auth.app.test/logo.png", "includeFooter": false},
            "args": args,
        })
    };
    for (event, args, lane) in [
        ("user.human.email.code.added", serde_json::json!({"code": "481516", "firstName": "Alice"}), Lane::Otp),
        (
            "session.otp.email.challenged",
            serde_json::json!({"otp": "48151623", "expiry": 300_000_000_000_u64}),
            Lane::Otp,
        ),
        ("user.human.password.code.added", serde_json::json!({"code": "481516"}), Lane::Reset),
        ("user.human.invite.code.added", serde_json::json!({"code": "481516"}), Lane::Reset),
        ("user.human.initialization.code.added", serde_json::json!({"code": "481516"}), Lane::Reset),
        ("user.human.passwordless.initialization.code.added", serde_json::json!({"code": "481516"}), Lane::Otp),
        ("user.human.password.change.sent", serde_json::json!({}), Lane::Notice),
        ("user.domain.claimed", serde_json::json!({"tempUsername": "x"}), Lane::Notice),
    ] {
        let wanted = read(Kind::Zitadel, call(event, args));
        assert_eq!((wanted[0].lane, &*wanted[0].tag), (lane, event), "{event}");
    }
    let wanted = read(Kind::Zitadel, call("user.human.email.code.added", serde_json::json!({"code": "481516"})));
    let texts = wanted[0].texts.as_ref().unwrap();
    assert_eq!(texts.body.as_deref(), Some("Eine neue E-Mail wurde hinzugef\u{fc}gt.\n(Code 481516) a < b & c"));
    assert_eq!((texts.greeting.as_deref(), texts.footer.as_deref()), (Some("Hallo Alice,"), None));
    assert_eq!(texts.subject.as_deref(), Some("E-Mail verifizieren"));
    let bare =
        serde_json::json!({"contextInfo": {"eventType": "user.human.email.code.added"}, "args": {"code": "481516"}});
    assert!(Kind::Zitadel.read(bare.to_string().as_bytes()).is_err(), "nobody");
}

#[test]
fn what_is_refused_tells_no_code() {
    for body in [
        &br#"{"to":"alice@example.test","type":"SignIn","payload":{"code":481516}}"#[..],
        br#"{"to":481516}"#,
        b"481516",
    ] {
        let problem = Kind::Logto.read(body).err().unwrap();
        assert!(!problem.detail().contains("481516") && !problem.why().text.contains("481516"), "{problem:?}");
    }
}
