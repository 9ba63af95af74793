use super::*;
use crate::accounts::user::Senders;
use crate::base::clock::{Clock as _, SystemClock};
use crate::base::lane::Lane;

const ARGON2: &str = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHQ$UlRZPdmc8Vxrnlw4Io9Jpr1HoyCtq5+SwqpCtLNN7QM";

fn credentials() -> Credentials {
    let user = Arc::new(User {
        name: "shop".into(),
        senders: Senders::Patterns(Vec::new()),
        lane: Lane::Otp,
        life: Duration::from_secs(600),
        ..User::unlimited("shop")
    });
    let verifier = ScramVerifier::derive("secret", b"salt", NonZeroU32::new(1000).unwrap());
    let account = Account { user, password: Some(PasswordHash::Scram(verifier)), token: Some(TokenHash::of("token")) };
    Credentials::new(HashMap::from([("shop".to_owned(), account)]), b"a secret of this machine")
}

#[tokio::test]
async fn passwords_are_checked_and_remembered() {
    let credentials = credentials();
    let now = SystemClock::default().instant();
    assert!(matches!(credentials.check("shop", "secret", now).await, PasswordCheck::Accepted(_)));
    assert!(matches!(credentials.check("shop", "wrong", now).await, PasswordCheck::Refused));
    assert!(matches!(credentials.check("nobody", "secret", now).await, PasswordCheck::Refused));
    assert_eq!(credentials.remembered.lock().len(), 1);
    assert!(matches!(credentials.check("shop", "secret", now).await, PasswordCheck::Accepted(_)));
    credentials.reconfigure(HashMap::new());
    assert!(matches!(credentials.check("shop", "secret", now).await, PasswordCheck::Refused));
}

/// A login holds as long as its user has what it was made by; the user's rights are those of now.
#[tokio::test]
async fn logins_end_with_what_they_were_made_by() {
    let credentials = credentials();
    let now = SystemClock::default().instant();
    let PasswordCheck::Accepted(by_password) = credentials.check("shop", "secret", now).await else {
        panic!("it is right")
    };
    let by_memory = credentials.remembered("shop", "secret", now).unwrap();
    let verifier = credentials.scram_verifier("shop");
    let by_scram = credentials.proved("shop", verifier.clone()).unwrap();
    let by_token = credentials.login_by_token(&TokenHash::of("token")).unwrap();
    let all = [&by_password, &by_memory, &by_scram, &by_token];
    let hold = |credentials: &Credentials| all.map(|login| credentials.renewed(login).is_some());
    let accounts = HashMap::clone(&credentials.accounts.load());
    let changed = |change: &dyn Fn(&mut Account)| {
        let mut accounts = accounts.clone();
        change(accounts.get_mut("shop").unwrap());
        accounts
    };
    credentials.reconfigure(changed(&|account| {
        account.user = Arc::new(User { lane: Lane::Notice, ..User::unlimited("shop") })
    }));
    assert_eq!(hold(&credentials), [true; 4]);
    assert!(all.iter().all(|login| credentials.renewed(login).unwrap().lane == Lane::Notice));
    let other = ScramVerifier::derive("secret", b"other salt", NonZeroU32::new(1000).unwrap());
    credentials.reconfigure(changed(&|account| account.password = Some(PasswordHash::Scram(other.clone()))));
    assert_eq!(hold(&credentials), [false, false, false, true]);
    // A check, or an exchange, that began with the hash of before.
    credentials.remember(credentials.fingerprint("shop", "secret", &PasswordHash::Scram(verifier.clone())), now);
    assert!(credentials.remembered("shop", "secret", now).is_none());
    assert!(credentials.proved("shop", verifier).is_none());
    credentials.reconfigure(changed(&|account| account.token = Some(TokenHash::of("other"))));
    assert_eq!(hold(&credentials), [true, true, true, false]);
    credentials.reconfigure(HashMap::new());
    assert_eq!(hold(&credentials), [false; 4]);
    assert!(credentials.trusted().is_none());
}

#[test]
fn tokens_name_their_user() {
    let credentials = credentials();
    assert_eq!(credentials.login_by_token(&TokenHash::of("token")).unwrap().user.name.as_ref(), "shop");
    assert!(credentials.login_by_token(&TokenHash::of("Token")).is_none());
    assert!(TokenHash::from_text("abc").is_none() && TokenHash::from_text(&"g".repeat(64)).is_none());
    assert_eq!(credentials.users().len(), 1);
}

#[test]
fn unknown_users_look_like_known_ones() {
    let (one, other) = (credentials(), credentials());
    let verifier = one.scram_verifier("nobody");
    assert_eq!(verifier, other.scram_verifier("nobody"));
    assert_ne!(verifier.salt, one.scram_verifier("somebody").salt);
    assert_eq!(verifier.salt.len(), SALT_LEN);
    assert_ne!(one.nonce().unwrap(), one.nonce().unwrap());
}

/// The work, not the time it takes: what a name that is no user's is checked against costs what a user's check costs.
#[tokio::test]
async fn unknown_users_cost_what_known_ones_cost() {
    let kinds = |credentials: &Credentials| {
        let mut kinds: Vec<u32> = (0..40)
            .map(|number| match credentials.made_up_hash(&format!("nobody{number}")) {
                PasswordHash::Scram(verifier) => verifier.iterations.get(),
                PasswordHash::Argon2(_) => 0,
            })
            .collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    };
    let credentials = credentials();
    assert_eq!(kinds(&credentials), [1000]);
    assert_eq!(credentials.scram_verifier("nobody").iterations.get(), 1000);
    let mut accounts = HashMap::clone(&credentials.accounts.load());
    let mut other = accounts["shop"].clone();
    other.password = PasswordHash::from_text(ARGON2);
    accounts.insert("bank".into(), other);
    credentials.reconfigure(accounts);
    assert_eq!(kinds(&credentials), [0, 1000]);
    let now = SystemClock::default().instant();
    let name = (0..).map(|number| format!("nobody{number}"));
    let name = name.into_iter().find(|name| matches!(credentials.made_up_hash(name), PasswordHash::Argon2(_)));
    // The password of the user whose hash it is, too, is wrong for somebody who does not exist.
    assert!(matches!(credentials.check(&name.unwrap(), "password", now).await, PasswordCheck::Refused));
    credentials.reconfigure(HashMap::new());
    assert_eq!(kinds(&credentials), [SCRAM_ITERATIONS.get()]);
}

#[test]
fn hashes_are_read() {
    assert!(matches!(PasswordHash::from_text(ARGON2), Some(PasswordHash::Argon2(_))));
    assert!(PasswordHash::from_text("$argon2id$nonsense").is_none());
    assert!(PasswordHash::from_text("secret").is_none());
}
