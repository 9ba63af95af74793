//! Closed sets whose members have a word each, for files, lines and people.

/// An enum beside its words: `named! { pub enum Mode: name { Enforce = "enforce", } }` has `Mode::name`; with `: name, ALL` also
/// `Mode::ALL`, its members in their order.
macro_rules! named {
    ($(#[$meta:meta])* $vis:vis enum $Set:ident: $word:ident, ALL { $($(#[$of:meta])* $Member:ident = $text:literal,)+ }) => {
        $crate::base::named::named! { $(#[$meta])* $vis enum $Set: $word { $($(#[$of])* $Member = $text,)+ } }

        impl $Set {
            /// All of them, in their order.
            $vis const ALL: [Self; [$($text),+].len()] = [$(Self::$Member),+];
        }
    };
    ($(#[$meta:meta])* $vis:vis enum $Set:ident: $word:ident { $($(#[$of:meta])* $Member:ident = $text:literal,)+ }) => {
        $(#[$meta])*
        $vis enum $Set {
            $($(#[$of])* $Member),+
        }

        impl $Set {
            /// The word for it.
            $vis const fn $word(self) -> &'static str {
                match self {
                    $(Self::$Member => $text),+
                }
            }
        }
    };
}
pub(crate) use named;
