use std::fs;

use super::*;

fn mail<'a>(code: &'a str, locale: &'a str) -> Mail<'a> {
    let life = Duration::from_secs(600);
    Mail { code: Some(code), app: Some("Shop"), locale, life, domain: "shop.test", ..Mail::default() }
}

#[test]
fn each_language_fills_its_template() {
    let templates = Templates::default();
    for (locale, subject, valid) in [
        ("en", "481516 is your code for Shop", "It is valid for 10 minutes."),
        ("de-AT", "481516 ist Ihr Code f\u{fc}r Shop", "Er gilt 10 Minuten."),
        ("FR", "481516 est votre code pour Shop", "Il est valable 10 minutes."),
        ("es_MX", "481516 es tu c\u{f3}digo de Shop", "Es v\u{e1}lido durante 10 minutos."),
        ("pt-BR", "481516 \u{e9} o seu c\u{f3}digo para Shop", "10 minutos"),
        ("it", "481516 \u{e8} il tuo codice per Shop", "10 minuti"),
        ("nl", "481516 is je code voor Shop", "10 minuten"),
        ("pl", "481516 to Tw\u{f3}j kod do Shop", "10 minut."),
        ("ja-JP", "Shop\u{306e}\u{78ba}\u{8a8d}\u{30b3}\u{30fc}\u{30c9}: 481516", "10\u{5206}"),
        (
            "ar",
            "481516 \u{647}\u{648} \u{631}\u{645}\u{632}\u{643} \u{641}\u{64a} Shop",
            "10 \u{62f}\u{642}\u{627}\u{626}\u{642}",
        ),
        ("tlh", "481516 is your code for Shop", "It is valid for 10 minutes."),
    ] {
        let filled = templates.fill(&mail("481516", locale));
        assert_eq!(filled.subject, subject);
        assert!(filled.text.starts_with("481516\n") && filled.text.contains(valid), "{}", filled.text);
        assert!(filled.html.contains(valid) && !filled.html.contains("{{"), "{}", filled.html);
        assert!(filled.text.ends_with("\n@shop.test #481516\n"), "{}", filled.text);
        let direction = if locale == "ar" { "dir=\"rtl\"" } else { "dir=\"ltr\"" };
        assert!(filled.html.contains(&format!("{direction}>\n<head>")), "{}", filled.html);
    }
}

/// Code, app, expiry and what to do if one did not ask, in every language; dark mode; nothing from anywhere.
#[test]
fn a_mail_says_all_at_a_glance_and_loads_nothing() {
    let templates = Templates::default();
    for (language, _) in LANGUAGES {
        let FilledTemplate { text, html, .. } = templates.fill(&mail("481516", language));
        for form in [&text, &html] {
            assert!(form.contains("481516") && form.contains("Shop"), "{form}");
        }
        assert!(html.contains("prefers-color-scheme: dark") && html.contains("content=\"light dark\""), "{html}");
        for remote in ["http:", "https:", "src=", "url(", "<img", "<link", "@import", "<script"] {
            assert!(!html.contains(remote), "{language}: {remote}");
        }
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        // Code, intro, life, warning, autofill.
        assert_eq!(lines.len(), 5, "{text}");
    }
}

#[test]
fn names_cannot_become_markup() {
    let templates = Templates::default();
    let hour = Duration::from_secs(3600);
    let filled = templates.fill(&Mail { app: Some("<b>\"A&B\""), life: hour, ..mail("1234", "en") });
    assert!(filled.html.contains("&lt;b&gt;&quot;A&amp;B&quot;") && !filled.html.contains("<b>"));
    assert!(filled.text.contains("It is valid for 1 hour."));
    let filled = templates.fill(&Mail { app: Some("{{ code }}{% raw %}"), ..mail("1234", "en") });
    assert!(filled.text.contains("{{ code }}{% raw %}"), "{}", filled.text);
    let plain = Mail { app: None, life: Duration::from_secs(90), ..mail("1234", "en") };
    assert_eq!(templates.fill(&plain).subject, "1234 is your code");
}

#[test]
fn units_take_the_form_of_their_number() {
    let templates = Templates::default();
    for (locale, minutes, expected) in [
        ("pl", 1, "1 minut\u{119}"),
        ("pl", 3, "3 minuty"),
        ("pl", 5, "5 minut"),
        ("pl", 12, "12 minut"),
        ("pl", 22, "22 minuty"),
        ("ar", 1, "\u{62f}\u{642}\u{64a}\u{642}\u{629} \u{648}\u{627}\u{62d}\u{62f}\u{629}"),
        ("ar", 2, "\u{62f}\u{642}\u{64a}\u{642}\u{62a}\u{64a}\u{646}"),
        ("ar", 30, "30 \u{62f}\u{642}\u{64a}\u{642}\u{629}"),
        ("ja", 1, "1\u{5206}"),
        ("fr", 1, "1 minute"),
    ] {
        let language = templates.language(locale);
        assert_eq!(templates.span(language, Duration::from_secs(minutes * 60)).unwrap(), expected);
    }
}

#[test]
fn a_link_has_a_button_and_a_notice_has_no_life() {
    let templates = Templates::default();
    let link = Mail { code: None, link: Some("https://app.test/?a=1&b=2"), purpose: Purpose::Reset, ..mail("", "en") };
    let filled = templates.fill(&link);
    assert_eq!(filled.subject, "Set a new password for Shop");
    assert!(filled.text.contains("\nhttps://app.test/?a=1&b=2\n") && !filled.text.contains('#'), "{}", filled.text);
    assert!(filled.html.contains("<a href=\"https://app.test/?a=1&amp;b=2\""), "{}", filled.html);
    let notice = templates.fill(&Mail { code: None, purpose: Purpose::PasswordChanged, ..mail("", "de") });
    assert_eq!(notice.subject, "Ihr Passwort f\u{fc}r Shop wurde ge\u{e4}ndert");
    assert!(!notice.text.contains("gilt") && notice.text.contains("sichern Sie jetzt Ihr Konto"), "{}", notice.text);
    let texts = Texts { title: Some("Hi <b>".into()), body: Some("one\ntwo".into()), ..Texts::default() };
    let own = templates.fill(&Mail { texts: Some(&texts), purpose: Purpose::Confirm, ..mail("481516", "en") });
    assert!(own.html.contains("Hi &lt;b&gt;") && own.html.contains("one<br>\ntwo") && own.text.contains("one\ntwo"));
}

fn loaded(files: &[(&str, &str)]) -> Result<Templates, String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    Templates::load(folder.path(), "mails")
        .map_err(|error| error.to_string().replace(folder.path().to_str().unwrap(), ""))
}

#[test]
fn own_files_are_laid_over_those_built_in() {
    let own = loaded(&[
        ("en.toml", "code_subject = \"Shop: {{ code }}\"\n"),
        (
            "gsw.toml",
            &LANGUAGES[1].1.replace("language = \"de\"", "language = \"gsw\"").replace("Er gilt", "Er giltet"),
        ),
        ("readme.txt", "nothing"),
    ]);
    let own = own.unwrap();
    assert_eq!(own.fill(&mail("1234", "en")).subject, "Shop: 1234");
    assert!(own.fill(&mail("1234", "en")).text.contains("It is valid for 10 minutes."));
    assert!(own.fill(&mail("1234", "gsw-CH")).text.contains("Er giltet 10 Minuten."));
    let layout = loaded(&[("layout.toml", "text = \"only {{ code }}\"\n")]).unwrap();
    assert_eq!(layout.fill(&mail("1234", "fr")).text, "only 1234");
    assert_eq!((own.folder(), Templates::default().folder()), ("mails", ""));
}

#[test]
fn a_mistake_is_told_with_its_file() {
    for (name, text, expected) in [
        ("en.toml", "code_subjekt = \"x\"", "/en.toml: unknown field `code_subjekt`"),
        ("en.toml", "valid = \"{{ live }}\"", "/en.toml: valid: undefined value"),
        ("en.toml", "valid = \"{% if %}\"", "/en.toml: valid: syntax error"),
        ("en.toml", "titles.login = 5", "/en.toml: invalid type: integer"),
        ("en.toml", "titles.logn = \"x\"", "/en.toml: titles.logn: unknown"),
        ("sv.toml", "language = \"sv\"", "/sv.toml: missing field"),
        ("en.toml", "units.second = [\"{{ n }} s\"]", "/en.toml: "),
        (
            "en.toml",
            "valid = \"{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}\"",
            "/en.toml: valid: ",
        ),
        ("en.toml", "= 1", "/en.toml: "),
    ] {
        let error = loaded(&[(name, text)]).err().unwrap_or_else(|| panic!("{text}"));
        assert!(error.starts_with(expected), "{error}");
    }
    assert!(Templates::load(std::path::Path::new("/nowhere"), "nowhere").is_err());
}
