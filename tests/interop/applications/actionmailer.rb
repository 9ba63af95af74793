# ActionMailer as an application of Rails configures it.
require "action_mailer"

ActionMailer::Base.delivery_method = :smtp
ActionMailer::Base.smtp_settings = {
  address: ENV.fetch("RELAY_HOST"), port: ENV.fetch("RELAY_PORT").to_i, user_name: ENV.fetch("RELAY_USER"),
  password: ENV.fetch("RELAY_PASSWORD"), authentication: :plain, enable_starttls_auto: true,
}

class CodeMailer < ActionMailer::Base
  def code(to, code)
    mail(from: ENV.fetch("SENDER"), to: to, subject: "Your code") do |format|
      format.text { render plain: "It is #{code}." }
      format.html { render html: "<p>It is <b>#{code}</b>.</p>".html_safe }
    end
  end
end

CodeMailer.code(ENV.fetch("RECIPIENT"), "481516").deliver_now
