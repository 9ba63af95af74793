//! Plays every file of `tests/transcripts` straight into a session, twice: with what one side says in one piece, and
//! octet by octet. `tests/transcripts/README.md` tells how the files are written.

mod delivery;
mod script;
mod submission;

use std::collections::VecDeque;
use std::path::Path;

use script::{Act, Line, Script};

/// One of our sessions, and the one that drives it.
trait Player {
    /// Lets something happen to the session and answers what it asks.
    fn act(&mut self, act: Act<'_>) -> Result<(), String>;
    /// What the session did since this was last asked, line by line.
    fn take_done(&mut self) -> Vec<String>;
    /// Whether nothing can happen any more.
    fn is_over(&self) -> bool;
}

/// In what pieces the octets of one side arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pieces {
    Whole,
    Octets,
}

/// Plays a script to its end. What the session does has to be what the script says, no more and no less.
fn play(script: &Script, player: &mut dyn Player, pieces: Pieces) -> Result<(), String> {
    let done = player.take_done().into();
    let mut play = Play { script, player, pieces, arriving: Vec::new(), done };
    for line in &script.lines {
        play.line(line).map_err(|text| format!("{}:{} ({pieces:?})\n{text}", script.name, line.number))?;
    }
    let end = play.arrive().and_then(|()| play.nothing_is_left());
    end.map_err(|text| format!("{}:end ({pieces:?})\n{text}", script.name))
}

struct Play<'a> {
    script: &'a Script,
    player: &'a mut dyn Player,
    pieces: Pieces,
    /// Lines that follow each other arrive together.
    arriving: Vec<u8>,
    /// What the session did and the script has not mentioned yet.
    done: VecDeque<String>,
}

impl Play<'_> {
    fn line(&mut self, line: &Line) -> Result<(), String> {
        if let Some(octets) = self.script.octets(line)? {
            if self.arriving.is_empty() {
                self.can_go_on()?;
            }
            self.arriving.extend_from_slice(&octets);
            return Ok(());
        }
        self.arrive()?;
        if let Some(act) = self.script.act(line)? {
            self.can_go_on()?;
            self.player.act(act)?;
            self.done.extend(self.player.take_done());
            return Ok(());
        }
        match self.done.pop_front() {
            Some(done) if line.matches(&done) => Ok(()),
            got => Err(self.difference(&line.to_string(), got.as_deref().unwrap_or("nothing"))),
        }
    }

    fn arrive(&mut self) -> Result<(), String> {
        let octets = std::mem::take(&mut self.arriving);
        let size = if self.pieces == Pieces::Whole { octets.len().max(1) } else { 1 };
        for piece in octets.chunks(size) {
            // What is sent behind the end of a session nobody reads.
            if self.player.is_over() {
                break;
            }
            self.player.act(Act::Arrive(piece))?;
            self.done.extend(self.player.take_done());
        }
        Ok(())
    }

    fn can_go_on(&mut self) -> Result<(), String> {
        self.nothing_is_left()?;
        if self.player.is_over() { Err("  the session is over".to_owned()) } else { Ok(()) }
    }

    fn nothing_is_left(&mut self) -> Result<(), String> {
        self.done.pop_front().map_or(Ok(()), |got| Err(self.difference("nothing", &got)))
    }

    fn difference(&self, expected: &str, got: &str) -> String {
        let then: String = self.done.iter().map(|line| format!("      then  {line}\n")).collect();
        format!("  expected  {expected}\n       got  {got}\n{then}")
    }
}

fn check(name: &str, text: &str) -> Result<(), String> {
    let script = Script::parse(name, text)?;
    for pieces in [Pieces::Whole, Pieces::Octets] {
        if pieces == Pieces::Octets && script.is_set("whole pieces only") {
            continue;
        }
        let at_head = |text| format!("{name}: {text}");
        let mut player: Box<dyn Player> = match script.side {
            script::Side::Submission => Box::new(submission::Submission::new(&script).map_err(at_head)?),
            script::Side::Delivery => Box::new(delivery::Delivery::new(&script).map_err(at_head)?),
        };
        play(&script, player.as_mut(), pieces)?;
    }
    Ok(())
}

fn check_folder(side: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts").join(side);
    let mut files: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let faults: Vec<String> = files
        .iter()
        .filter_map(|file| {
            let name = format!("tests/transcripts/{side}/{}", file.file_name()?.to_str()?);
            check(&name, &std::fs::read_to_string(file).unwrap()).err()
        })
        .collect();
    assert!(files.len() > 50, "only {} transcripts in {}", files.len(), folder.display());
    assert!(faults.is_empty(), "{} of {} transcripts differ:\n{}", faults.len(), files.len(), faults.join("\n"));
}

#[test]
fn submission_transcripts() {
    check_folder("submission");
}

#[test]
fn delivery_transcripts() {
    check_folder("delivery");
}

/// Plays lines, separated by ` / `, and looks for a word in the complaint.
fn check_complaint(side: &str, lines: &str, complaint: &str) {
    let result = check(&format!("{side}/inline"), &lines.replace(" / ", "\n"));
    let text = result.expect_err(lines);
    assert!(text.contains(complaint), "{lines}\n{text}");
}

#[test]
fn a_wrong_transcript_is_found_out() {
    let good = "S: 220 * / C: NOOP / S: 250 2.0.0 ok / C: QUIT / S: 221 * / = closed";
    assert_eq!(check("submission/inline", &good.replace(" / ", "\n")), Ok(()));

    let submission = |lines, complaint| check_complaint("submission", lines, complaint);
    submission("S: 220 * / C: NOOP / S: 250 2.0.0 fine", "inline:3");
    submission("S: 220 * / C: NOOP / S: 250 2.0.0 o", "expected  S: 250 2.0.0 o\n       got  S: 250 2.0.0 ok");
    submission("S: 220 * / C: NOOP / C: NOOP / S: 250 *", "inline:end");
    submission("S: 220 * / C: NOOP / S: 250 * / S: 250 *", "got  nothing");
    submission("C: NOOP / S: 250 *", "expected  nothing\n       got  S: 220");
    submission("S: 220 * / C: NOOP / T: +1s / S: 250 *", "inline:3");
    submission("S: 220 * / C: QUIT / S: 221 *", "got  = closed");
    submission("S: 220 * / C: QUIT / S: 221 * / = closed / C: NOOP", "the session is over");
    submission("# trusty / S: 220 *", "unknown setting");
    submission("S: 220 * / # trusted", "unknown line");
    submission("S: 220 * / Z: 1", "unknown line");
    submission(
        "# trusted / # greeted / C: MAIL FROM:<> / C: RCPT TO:<a@b.example> / C: DATA / S: 250 * / S: 250 * / S: 354 * / C: . / S: 250 *",
        "got  M: ",
    );

    let delivery = |lines, complaint| check_complaint("delivery", lines, complaint);
    delivery("S: 220 mx / C: HELO relay.example.com", "got  C: EHLO");
    delivery("S: 220 mx", "got  C: EHLO");
    delivery("S: 554 no / = no session: banner timeout", "got  = no session: banner reply 554 no");
    delivery("S: 554 no / = no session: banner reply 554 no", "got  = over");
    delivery("T: +9s / = no session: banner timeout", "got  nothing");
}
