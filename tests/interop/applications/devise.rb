# Devise's reset of a password, in a small application of Rails.
require "rails"
require "active_record/railtie"
require "action_controller/railtie"
require "action_mailer/railtie"
require "sqlite3"

ENV["DATABASE_URL"] = "sqlite3::memory:"

class Application < Rails::Application
  config.eager_load = false
  config.secret_key_base = "x" * 60
  config.logger = Logger.new($stderr)
  config.log_level = :warn
  config.action_mailer.delivery_method = :smtp
  config.action_mailer.raise_delivery_errors = true
  config.action_mailer.default_url_options = { host: "app.test" }
  config.action_mailer.smtp_settings = {
    address: ENV.fetch("RELAY_HOST"), port: ENV.fetch("RELAY_PORT").to_i, user_name: ENV.fetch("RELAY_USER"),
    password: ENV.fetch("RELAY_PASSWORD"), authentication: :login, enable_starttls_auto: true,
  }
end

require "devise"
require "devise/orm/active_record"
Devise.setup do |config|
  config.mailer_sender = ENV.fetch("SENDER")
  config.secret_key = "y" * 60
end

class User < ActiveRecord::Base
  devise :database_authenticatable, :recoverable
end

Application.routes.prepend { devise_for :users }
Application.initialize!
ActiveRecord::Schema.verbose = false
ActiveRecord::Schema.define do
  create_table :users do |t|
    t.string :email
    t.string :encrypted_password
    t.string :reset_password_token
    t.datetime :reset_password_sent_at
  end
end
User.create!(email: ENV.fetch("RECIPIENT"), password: "a password")
User.send_reset_password_instructions(email: ENV.fetch("RECIPIENT"))
